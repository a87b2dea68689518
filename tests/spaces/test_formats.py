import json

import numpy as np
import pytest

from fastnas.mechanisms.derivation import every_edge
from fastnas.spaces.cell_space import DARTS, NASBENCH201, S1
from fastnas.spaces.formats import (
    genotype_from_json,
    genotype_to_json,
    genotype_to_text,
    parse_genotype,
    read_genotype,
    space_from_json,
    space_to_json,
)
from fastnas.spaces.known import KNOWN
from fastnas.spaces.registry import SPACES
from fastnas.spaces.sampling import random_genotype

PDARTS = KNOWN["PDARTS"]
GOOD_JSON = genotype_to_json(parse_genotype(PDARTS))


def edited(**changes):
    return json.dumps({**GOOD_JSON, **changes})


@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)
def test_every_form_survives_a_round_trip(space):
    for seed in range(100 if len(space.edges) < 1000 else 3):
        genotype = random_genotype(space, seed)
        assert parse_genotype(genotype_to_text(genotype)).canonical() == genotype.canonical()
        assert parse_genotype(json.dumps(genotype_to_json(genotype))) == genotype
        assert genotype_from_json(genotype_to_json(genotype)) == genotype


@pytest.mark.parametrize("space", [DARTS, S1], ids=lambda space: space.name)
def test_a_genotype_may_name_every_edge_where_a_number_of_them_is_usual(space):
    rng = np.random.default_rng(0)
    mix = {cell_type: rng.random((14, len(space.primitives))) for cell_type in space.cell_types}
    genotype = every_edge(space, {t: x * np.array(space.alive(t)) for t, x in mix.items()})
    assert [len(genes) for genes in genotype.normal.nodes] == [2, 3, 4, 5]
    assert (genotype.normal.count("none") > 0) == ("none" in space.primitives)
    assert parse_genotype(genotype_to_text(genotype)) == genotype
    assert parse_genotype(json.dumps(genotype_to_json(genotype))) == genotype
    text = genotype_to_text(genotype)
    with pytest.raises(ValueError, match=r"normal must list 8 edges, 2 for each of 4 nodes, got 13"):
        parse_genotype("Genotype(normal=[" + text[text.index("), (") + 3 :])


@pytest.mark.parametrize("name", KNOWN)
def test_known_architectures_can_be_named(name):
    assert genotype_to_text(read_genotype(name)) == KNOWN[name]


def test_a_range_stands_for_the_concatenated_states():
    assert parse_genotype(PDARTS.replace("[2, 3, 4, 5]", "range(2, 6)")) == parse_genotype(PDARTS)


def test_a_definition_as_people_paste_it_is_understood(tmp_path):
    file = tmp_path / "genotype.txt"
    file.write_text(f"PDARTS = {PDARTS}\n")
    assert read_genotype(str(file)) == parse_genotype(PDARTS)
    assert read_genotype(f"PDARTS = {PDARTS}") == parse_genotype(PDARTS)


def test_a_file_may_hold_any_form(tmp_path):
    for form in (PDARTS, json.dumps(GOOD_JSON)):
        (tmp_path / "genotype").write_text(form)
        assert read_genotype(str(tmp_path / "genotype")) == parse_genotype(PDARTS)


def fields(normal):
    return f"Genotype(normal={normal}, normal_concat=[], reduce=[], reduce_concat=[])"


HOSTILE = {
    "a call": "Genotype(normal=__import__('os').system('touch hacked'), normal_concat=[], reduce=[], reduce_concat=[])",
    "a lambda": "Genotype(normal=(lambda: open('hacked', 'w'))(), normal_concat=[], reduce=[], reduce_concat=[])",
    "a huge range": PDARTS.replace("[2, 3, 4, 5]", "range(10**12)"),
    "deep nesting": "Genotype(normal=" + "[" * 5000 + "]" * 5000 + ", normal_concat=[], reduce=[], reduce_concat=[])",
    "an attribute": "Genotype(normal=os.environ, normal_concat=[], reduce=[], reduce_concat=[])",
    "a call in a range": PDARTS.replace("[2, 3, 4, 5]", "range(2, 6, step=open('hacked', 'w'))", 1),
    "an unpacked range": PDARTS.replace("[2, 3, 4, 5]", "range(*open('hacked', 'w'))", 1),
    "an unpacked field": "Genotype(**open('hacked', 'w'))",
    "a positional call": "Genotype(open('hacked', 'w'))",
    "an f-string": fields('f\'{open("hacked", "w")}\''),
    "a comprehension": fields("[open('hacked', 'w') for _ in (1,)]"),
    **{
        f"{depth} {kind}": fields(text)
        for depth in (90, 500, 2000, 100_000)
        for kind, text in {
            "signs": "-" * depth + "1",
            "sums": "1+" * depth + "1",
            "attributes": "a" + ".a" * depth,
            "calls": "open" + "()" * depth,
        }.items()
    },
    "a number of many digits": fields("1" * 5000),
    "a null byte": fields("'\0'"),
    "deep json": '{"space": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep json in a cell": '{"space": "darts", "normal": ' + "[" * 900 + "]" * 900 + "}",
    "json of many digits": '{"space": ' + "1" * 5000 + "}",
    "a second statement": f"{PDARTS}; open('hacked', 'w')",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_nothing_is_executed(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^genotype: ") as caught:
        parse_genotype(text)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


BROKEN = {
    "unknown primitive": (PDARTS.replace("('skip_connect', 0)", "('conv_9x9', 0)", 1), "normal node 2 .* 'conv_9x9'"),
    "none is not derivable": (PDARTS.replace("('skip_connect', 0)", "('none', 0)", 1), "normal node 2 .* 'none'"),
    "cycle": (PDARTS.replace("('dil_conv_3x3', 1)", "('dil_conv_3x3', 2)", 1), r"node 2 .* got 2\. .*cycle"),
    "negative source": (PDARTS.replace("('dil_conv_3x3', 1)", "('dil_conv_3x3', -1)", 1), "got -1"),
    "same source twice": (PDARTS.replace("('dil_conv_3x3', 1)", "('dil_conv_3x3', 0)", 1), "read each state once"),
    "too few edges": (PDARTS.replace("('skip_connect', 0), ", "", 1), "normal must list 8 edges.*got 7"),
    "wrong concat": (PDARTS.replace("normal_concat=[2, 3, 4, 5]", "normal_concat=[2, 3]"), "concatenate"),
    "a concat of text": (PDARTS.replace("normal_concat=[2, 3, 4, 5]", "normal_concat='2345'"), "a list of states"),
    "a field twice": (PDARTS.replace(", reduce_concat=", ", reduce=[], reduce_concat="), "each once"),
    "a stranger": (PDARTS.replace("reduce_concat", "reduction_concat"), "fields must be normal.*'reduction_concat'"),
    "a float for a source": (PDARTS.replace("('dil_conv_3x3', 1)", "('dil_conv_3x3', 1.0)", 1), "list of"),
    "json with a bool for a source": (
        json.dumps(GOOD_JSON).replace('["dil_conv_3x3", 1]', '["dil_conv_3x3", true]'),
        "form",
    ),
    "json with a cycle": (json.dumps(GOOD_JSON).replace('["dil_conv_3x3", 1]', '["dil_conv_3x3", 2]'), "cycle"),
    "json with a primitive and a line break": (json.dumps(GOOD_JSON).replace("dil_conv_3x3", r"dil\n"), "'dil.*n'"),
    "nothing": ("", "text must be"),
    "an unknown space": (PDARTS[:-1] + ", space='nope')", "name must be a registered space, .*, got 'nope'"),
    "a space that is no name": (PDARTS[:-1] + ", space=3)", "space must be a name, got '3'"),
    "two spaces": (PDARTS[:-1] + ", space='darts', space='darts')", "space must be named once"),
    "a primitive of another edge": (
        genotype_to_text(random_genotype(S1, 0)).replace("'dil_conv_5x5', 1", "'sep_conv_3x3', 1", 1),
        "on its edge from 1, got 'sep_conv_3x3'",
    ),
    "nasbench201 with a stranger": ("|conv_9x9~0|+|none~0|none~1|+|none~0|none~1|none~2|", "'conv_9x9'"),
    "nasbench201 with a source twice": ("|none~0|+|none~0|none~0|+|none~0|none~1|none~2|", "each state once"),
    "missing field": (PDARTS.replace(", reduce_concat=[2, 3, 4, 5]", ""), "fields must be normal"),
    "a bool for a source": (PDARTS.replace("('dil_conv_3x3', 1)", "('dil_conv_3x3', True)", 1), "list of"),
    "json of an unknown space": (edited(space="nope"), "a registered space, .*, got 'nope'"),
    "json without a space": ("{}", "must name its space"),
    "json that is a list": ("{1: 2", "well formed"),
    "json with a stranger": (edited(extra=1), r"got \['extra'\]"),
    "json without a cell": (edited(reduction=None), "reduction must have the form"),
    "nasbench201 too short": ("|none~0|", "must have 3 nodes, got 1"),
    "nasbench201 garbled": ("|none~0|+|none0|", "must look like"),
    "nasbench201 cycle": ("|none~1|+|none~0|none~1|+|none~0|none~1|none~2|", "cycle"),
    "prose": ("the best cell", "text must be"),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_genotype_is_refused_in_one_line_that_names_the_fault(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_genotype(text)
    assert "\n" not in str(caught.value)


def test_files_that_hold_no_genotype_are_refused(tmp_path):
    (tmp_path / "binary").write_bytes(b"\x80\x02\xff\xfe")
    with pytest.raises(ValueError, match="binary data"):
        read_genotype(str(tmp_path / "binary"))
    with pytest.raises(ValueError, match="Known are DARTS_V1"):
        read_genotype(str(tmp_path / "missing"))
    with pytest.raises(ValueError, match=f"got {str(tmp_path)!r}"):
        read_genotype(str(tmp_path))
    with pytest.raises(ValueError, match=r"name must be .* got 'xxx.*\.\.\.'"):
        read_genotype("x" * 5000)
    (tmp_path / "prose").write_text("Dear reader,\nthe best cell")
    with pytest.raises(ValueError, match=r"text must be .* got 'Dear reader, the best cell'\.$"):
        read_genotype(str(tmp_path / "prose"))


def test_nesting_is_refused_at_any_depth():
    for depth in range(900, 1100, 3):  # about the recursion limit, where reading succeeds and printing may not
        with pytest.raises(ValueError, match=r"^genotype: "):
            parse_genotype('{"space": "darts", "normal": ' + "[" * depth + "]" * depth + "}")


def test_a_genotype_of_one_space_is_refused_by_the_other():
    with pytest.raises(ValueError, match="space must be 'nasbench201', got 'darts'"):
        NASBENCH201.check(random_genotype(DARTS, 0))


@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)
def test_the_graph_of_a_space_survives_a_round_trip(space):
    assert space_from_json(json.loads(json.dumps(space_to_json(space)))) == space


@pytest.mark.parametrize("data", [None, [], {}, space_to_json(DARTS) | {"num_inputs": "2"}])
def test_json_that_is_no_space_is_refused(data):
    with pytest.raises(ValueError, match="space: JSON must have the fields of a Space"):
        space_from_json(data)
