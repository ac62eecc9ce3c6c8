from collections import Counter

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from tvlens import Task, Template, TvlensError
from tvlens.tasks import TEMPLATES, beginning_token, build, contexts, shuffled_labels

pytestmark = [pytest.mark.tl3, pytest.mark.no_arithmetic]

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


@pytest.mark.parametrize(
    ("text", "delimiter", "gap"),
    [
        ("<|user|>{x}<|assistant|>\n{y}", "<|assistant|>\n", ""),
        ("{x}\t{y}\n", "\t", ""),
        ("{x}\n{y}\n\n", "\n", ""),
        ("{x}:\n {y}\n", ":\n", " "),
        ("{x}:\r\n{y}\r\n", ":\r\n", ""),
        ("{x}:\u3000{y}\n", ":\u3000", ""),
        ("{x}: {y}\n", ":", " "),
    ],
)
def test_white_space_before_the_answer_is_the_prompts(text, delimiter, gap):
    """All but one space, which tokenisers write as part of a word."""
    template, tokenizer = Template(text), tiny.tokenizer()
    assert (template.delimiter, template.gap) == (delimiter, gap)
    prompt = build(tokenizer, template, [("cat", "cats")], "dog", "dogs")
    assert prompt.text.endswith("dog" + delimiter)
    assert tokenizer.decode(prompt.answer, clean_up_tokenization_spaces=False) == gap + "dogs"
    assert prompt.tokens == build(tokenizer, template, [("cat", "cats")], "dog").tokens
    start, stop = prompt.labels[0]
    assert tokenizer.decode(prompt.tokens[start:stop]).strip() == "cats"


def test_built_in_templates_give_the_same_tokens_as_ever():
    """Written down before white space in front of an answer became the prompt's."""
    wanted = {
        "qa": ("<s> Q : Ġcat Ċ A : Ġcats Ċ Ċ Q : Ġ red Ċ A :", (6, 16), (7, 8)),
        "arrow": ("<s> cat Ġ-> Ġcats Ċ red Ġ->", (2, 6), (3, 4)),
        "colon": ("<s> cat : Ġcats Ċ red :", (2, 6), (3, 4)),
    }
    tokenizer = tiny.tokenizer()
    for name, (tokens, delimiters, label) in wanted.items():
        prompt = build(tokenizer, TEMPLATES[name], [("cat", "cats")], "red", "rouge")
        assert tokenizer.convert_ids_to_tokens(prompt.tokens) == tokens.split()
        assert tokenizer.convert_ids_to_tokens(prompt.answer) == ["Ġrouge"]
        assert (prompt.delimiters, prompt.labels) == (delimiters, (label,))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (r"{x} → {y}\n", "{x} → {y}\n"),
        (r"Größe {x}:\t{y}\u00e9\x41\\n", "Größe {x}:\t{y}éA\\n"),
        (r"{x} \N{RIGHTWARDS ARROW} {y}", "{x} → {y}"),
        ("Ответ на {x}: {y}\n", "Ответ на {x}: {y}\n"),
    ],
)
def test_only_escapes_are_decoded(text, read):
    assert Template.of(text).demonstration == read
    assert Template.restore(read).demonstration == read


@pytest.mark.parametrize(
    "wrong", [r"\u12", r"\d", r"\x4", r"\N{NO SUCH SIGN}", r"\U00110000", "\\"]
)
def test_a_wrong_escape_is_one_clear_line(wrong):
    with pytest.raises(TvlensError, match="is no escape sequence") as error:
        Template.of("{x} -> {y}" + wrong)
    assert "\n" not in str(error.value)


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


@given(
    given_labels=st.lists(st.sampled_from("ABC"), min_size=1, max_size=9),
    seed=st.integers(0, 99),
)
def test_no_demonstration_keeps_a_right_label(given_labels, seed):
    """By label, not by place; with as many of each label as there were, as far as possible."""
    shown = [(f"x{i}", y) for i, y in enumerate(given_labels)]
    mixed = shuffled_labels(shown, labels="AABC", seed=seed)
    assert mixed == shuffled_labels(shown, labels="AABC", seed=seed)
    assert [x for x, _ in mixed] == [x for x, _ in shown]
    assert all(a != b for (_, a), (_, b) in zip(mixed, shown, strict=True))
    before, after = Counter(given_labels), Counter(y for _, y in mixed)
    most = max(before.values())
    kept = sum((before & after).values())
    # A label in more than half of the places can only stand in the places of the others.
    assert kept >= min(len(shown), 2 * (len(shown) - most))


def test_a_single_demonstration_gets_another_label_of_the_task():
    drawn = {shuffled_labels([("x", "A")], labels="ABC", seed=s)[0][1] for s in range(20)}
    assert drawn == {"B", "C"}
    assert shuffled_labels([], seed=0) == []


def test_labels_are_not_exchanged_one_for_one():
    """With three classes a label must not always become the same other one."""
    shown = [(str(i), y) for i, y in enumerate("AAABBBCCC")]
    pairs = {
        (a, b)
        for seed in range(10)
        for (_, a), (_, b) in zip(shown, shuffled_labels(shown, seed=seed), strict=True)
    }
    assert len(pairs) == 6


def test_a_single_label_cannot_be_shuffled():
    one, two = [("a", "A")], [("a", "A"), ("b", "A")]
    for shown, labels in ((one, "AA"), (one, ""), (two, "")):
        with pytest.raises(TvlensError, match=r"cannot be shuffled.*needs two labels"):
            shuffled_labels(shown, labels=labels)


@given(st.integers(2, 9), st.integers(0, 99))
def test_shuffled_labels_leave_none_in_place(size, seed):
    shown = [(f"x{i}", f"y{i}") for i in range(size)]
    mixed = shuffled_labels(shown, seed=seed)
    assert [x for x, _ in mixed] == [x for x, _ in shown]
    assert sorted(y for _, y in mixed) == sorted(y for _, y in shown)
    assert all(a != b for a, b in zip(mixed, shown, strict=True))
