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
def test_build_gives_positions_of_inputs_labels_and_delimiters(pairs, name):
    """Decode every part from its tokens; inputs may contain the delimiter."""
    template, tokenizer = TEMPLATES[name], tiny.tokenizer()
    *shots, (query, answer) = pairs
    prompt = build(tokenizer, template, shots, query, answer)

    def decode(start, stop):
        return tokenizer.decode(prompt.tokens[start:stop], clean_up_tokenization_spaces=False)

    assert prompt.tokens[0] == beginning_token(tokenizer)
    assert decode(1, None) == prompt.text
    assert prompt.delimiters[-1] == len(prompt.tokens) - 1
    assert [decode(*span).strip() for span in prompt.inputs] == [x for x, _ in pairs]
    assert [decode(*span).strip() for span in prompt.labels] == [y for _, y in shots]
    assert tokenizer.decode(prompt.answer, clean_up_tokenization_spaces=False).strip() == answer
    for position, (_, stop) in zip(prompt.delimiters, prompt.inputs, strict=True):
        assert decode(stop, position + 1) == template.delimiter


def test_qa_template_has_its_documented_text():
    prompt = build(tiny.tokenizer(), TEMPLATES["qa"], [("cat", "cats")], "dog", "dogs")
    assert prompt.text == "Q: cat\nA: cats\n\nQ: dog\nA:"


def test_build_without_answer_gives_the_same_tokens():
    with_answer = build(tiny.tokenizer(), TEMPLATES["arrow"], [], "cat", "cats")
    without = build(tiny.tokenizer(), TEMPLATES["arrow"], [], "cat")
    assert without.tokens == with_answer.tokens and without.answer == ()


def test_template_of_parses_texts_and_names():
    template = Template.of("In: {x} Out: {y};")
    assert (template.prefix, template.delimiter, template.gap, template.separator) == (
        "In: ",
        " Out:",
        " ",
        ";",
    )
    assert Template.of(r"{x} => {y}\n").separator == "\n"
    assert Template.of(template) is template
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
def test_white_space_before_the_answer_belongs_to_the_prompt(text, delimiter, gap):
    """Except for one space, which tokenizers encode with the next word."""
    template, tokenizer = Template(text), tiny.tokenizer()
    assert (template.delimiter, template.gap) == (delimiter, gap)
    prompt = build(tokenizer, template, [("cat", "cats")], "dog", "dogs")
    assert prompt.text.endswith("dog" + delimiter)
    assert tokenizer.decode(prompt.answer, clean_up_tokenization_spaces=False) == gap + "dogs"
    assert prompt.tokens == build(tokenizer, template, [("cat", "cats")], "dog").tokens
    start, stop = prompt.labels[0]
    assert tokenizer.decode(prompt.tokens[start:stop]).strip() == "cats"


def test_built_in_templates_keep_their_tokens():
    """Tokens recorded before white space in front of an answer was moved to the prompt."""
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
    ("text", "decoded"),
    [
        (r"{x} → {y}\n", "{x} → {y}\n"),
        (r"Größe {x}:\t{y}\u00e9\x41\\n", "Größe {x}:\t{y}éA\\n"),
        (r"{x} \N{RIGHTWARDS ARROW} {y}", "{x} → {y}"),
        ("Ответ на {x}: {y}\n", "Ответ на {x}: {y}\n"),
    ],
)
def test_template_of_decodes_escapes_only(text, decoded):
    assert Template.of(text).demonstration == decoded
    assert Template.restore(decoded).demonstration == decoded


@pytest.mark.parametrize(
    "wrong", [r"\u12", r"\d", r"\x4", r"\N{NO SUCH SIGN}", r"\U00110000", "\\"]
)
def test_template_of_refuses_invalid_escapes(wrong):
    with pytest.raises(TvlensError, match="is no escape sequence") as error:
        Template.of("{x} -> {y}" + wrong)
    assert "\n" not in str(error.value)


def test_build_refuses_a_delimiter_that_merges():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocab = {c: i for i, c in enumerate("<a:bc")} | {":b": 5}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[(":", "b")]))
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<")
    with pytest.raises(TvlensError, match="merges its delimiter"):
        build(fast, Template("{x}:{y}c"), [], "a", "b")


def test_build_refuses_an_answer_without_tokens():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(vocab={"<": 0, "a": 1, ":": 2}, merges=[]))
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<")
    with pytest.raises(TvlensError, match="answer 'é' of 'a' tokenizes to nothing"):
        build(fast, Template("{x}:{y}\n"), [], "a", "é")


def test_contexts_samples_without_repeats():
    task = Task.load("singular-plural")
    sampled = contexts(task, shots=6, count=30, seed=3)
    assert sampled == contexts(task, shots=6, count=30, seed=3)
    assert sampled != contexts(task, shots=6, count=30, seed=4)
    for shots, query in sampled:
        assert len({x for x, _ in [*shots, query]}) == 7
    with pytest.raises(TvlensError, match="7 shots and a query need 8"):
        contexts(task.subset(range(7)), shots=7, count=1)


@given(
    given_labels=st.lists(st.sampled_from("ABC"), min_size=1, max_size=9),
    seed=st.integers(0, 99),
)
def test_shuffled_labels_are_all_wrong(given_labels, seed):
    """Every label differs from the right one; label counts are kept as far as possible."""
    shots = [(f"x{i}", y) for i, y in enumerate(given_labels)]
    shuffled = shuffled_labels(shots, labels="AABC", seed=seed)
    assert shuffled == shuffled_labels(shots, labels="AABC", seed=seed)
    assert [x for x, _ in shuffled] == [x for x, _ in shots]
    assert all(a != b for (_, a), (_, b) in zip(shuffled, shots, strict=True))
    before, after = Counter(given_labels), Counter(y for _, y in shuffled)
    most = max(before.values())
    common = sum((before & after).values())
    # A label in more than half of the places can only stand in the places of the others.
    assert common >= min(len(shots), 2 * (len(shots) - most))


def test_shuffled_labels_of_one_demonstration_are_other_labels():
    labels = {shuffled_labels([("x", "A")], labels="ABC", seed=s)[0][1] for s in range(20)}
    assert labels == {"B", "C"}
    assert shuffled_labels([], seed=0) == []


def test_shuffled_labels_are_no_fixed_permutation_of_classes():
    """With three classes, a label must not always be replaced by the same other one."""
    shots = [(str(i), y) for i, y in enumerate("AAABBBCCC")]
    pairs = {
        (a, b)
        for seed in range(10)
        for (_, a), (_, b) in zip(shots, shuffled_labels(shots, seed=seed), strict=True)
    }
    assert len(pairs) == 6


def test_shuffled_labels_refuses_a_single_label():
    one, two = [("a", "A")], [("a", "A"), ("b", "A")]
    for shots, labels in ((one, "AA"), (one, ""), (two, "")):
        with pytest.raises(TvlensError, match=r"cannot be shuffled.*needs two labels"):
            shuffled_labels(shots, labels=labels)


@given(st.integers(2, 9), st.integers(0, 99))
def test_shuffled_labels_of_unique_labels_is_a_derangement(size, seed):
    shots = [(f"x{i}", f"y{i}") for i in range(size)]
    shuffled = shuffled_labels(shots, seed=seed)
    assert [x for x, _ in shuffled] == [x for x, _ in shots]
    assert sorted(y for _, y in shuffled) == sorted(y for _, y in shots)
    assert all(a != b for a, b in zip(shuffled, shots, strict=True))
