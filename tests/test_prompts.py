import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from tvlens import Task, Template, TvlensError
from tvlens.tasks import TEMPLATES, beginning_token, build, contexts, shuffled_labels

pytestmark = pytest.mark.tl3

WORDS = st.text(alphabet="abcdegnorstu: éß", min_size=1, max_size=8).map(str.strip).filter(bool)


@given(
    pairs=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4),
    name=st.sampled_from(sorted(TEMPLATES)),
)
def test_positions_are_what_they_are_called(pairs, name):
    """Every part read back from its own tokens, even if inputs hold the delimiter themselves."""
    template, tokenizer = TEMPLATES[name], tiny.tokenizer()
    *shown, (query, answer) = pairs
    prompt = build(tokenizer, template, shown, query, answer)

    def read(start, stop):
        return tokenizer.decode(prompt.tokens[start:stop], clean_up_tokenization_spaces=False)

    assert prompt.tokens[0] == beginning_token(tokenizer)
    assert read(1, None) == prompt.text
    assert prompt.delimiters[-1] == len(prompt.tokens) - 1
    assert [read(*span).strip() for span in prompt.inputs] == [x for x, _ in pairs]
    assert [read(*span).strip() for span in prompt.labels] == [y for _, y in shown]
    assert tokenizer.decode(prompt.answer, clean_up_tokenization_spaces=False).strip() == answer
    for position, (_, stop) in zip(prompt.delimiters, prompt.inputs, strict=True):
        assert read(stop, position + 1) == template.delimiter


def test_the_qa_template_writes_what_was_measured():
    prompt = build(tiny.tokenizer(), TEMPLATES["qa"], [("cat", "cats")], "dog", "dogs")
    assert prompt.text == "Q: cat\nA: cats\n\nQ: dog\nA:"


def test_a_prompt_without_answer_is_a_prefix_of_one_with():
    with_answer = build(tiny.tokenizer(), TEMPLATES["arrow"], [], "cat", "cats")
    without = build(tiny.tokenizer(), TEMPLATES["arrow"], [], "cat")
    assert without.tokens == with_answer.tokens and without.answer == ()


def test_templates():
    own = Template.of("In: {x} Out: {y};")
    assert (own.prefix, own.delimiter, own.gap, own.separator) == ("In: ", " Out:", " ", ";")
    assert Template.of(r"{x} => {y}\n").separator == "\n"
    assert Template.of(own) is own
    for wrong in ("{x} only", "{y} -> {x}", "{x} {y}", "{x} {x} {y}"):
        with pytest.raises(TvlensError):
            Template.of(wrong)
    with pytest.raises(TvlensError, match="did you mean 'arrow'"):
        Template.of("arow")


def test_a_delimiter_that_merges_is_an_error():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocab = {c: i for i, c in enumerate("<a:bc")} | {":b": 5}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[(":", "b")]))
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<")
    with pytest.raises(TvlensError, match="merges its delimiter"):
        build(fast, Template("{x}:{y}c"), [], "a", "b")


def test_an_answer_of_nothing_is_an_error():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(vocab={"<": 0, "a": 1, ":": 2}, merges=[]))
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<")
    with pytest.raises(TvlensError, match="answer 'é' of 'a' tokenizes to nothing"):
        build(fast, Template("{x}:{y}\n"), [], "a", "é")


def test_contexts_draw_without_repeats():
    task = Task.load("singular-plural")
    drawn = contexts(task, shots=6, count=30, seed=3)
    assert drawn == contexts(task, shots=6, count=30, seed=3)
    assert drawn != contexts(task, shots=6, count=30, seed=4)
    for shown, query in drawn:
        assert len({x for x, _ in [*shown, query]}) == 7
    with pytest.raises(TvlensError, match="7 shots and a query need 8"):
        contexts(task.subset(range(7)), shots=7, count=1)


@given(st.integers(2, 9), st.integers(0, 99))
def test_shuffled_labels_leave_none_in_place(size, seed):
    shown = [(f"x{i}", f"y{i}") for i in range(size)]
    mixed = shuffled_labels(shown, seed=seed)
    assert [x for x, _ in mixed] == [x for x, _ in shown]
    assert sorted(y for _, y in mixed) == sorted(y for _, y in shown)
    assert all(a != b for a, b in zip(mixed, shown, strict=True))
