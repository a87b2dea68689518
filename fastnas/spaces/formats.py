"""Genotypes as text: JSON, the field's ``Genotype(normal=[...], ...)`` and NAS-Bench-201's ``|op~0|+...``.

Nothing that is read here is ever executed: JSON is JSON, and the other two forms are parsed as literals.
"""

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from fastnas.errors import complaint, invalid, require_type, suggest
from fastnas.files import without_checksum
from fastnas.spaces.cell_space import DARTS, NASBENCH201, CellSpace
from fastnas.spaces.chain_space import ChainSpace
from fastnas.spaces.genotype import FIELD_NAMES, CellGenotype, Gene, Genotype
from fastnas.spaces.graph_space import GraphSpace
from fastnas.spaces.known import KNOWN
from fastnas.spaces.registry import space_by_name
from fastnas.spaces.space import Space

WHERE = "genotype"
_KINDS: dict[str, type[Space]] = {kind.__name__: kind for kind in (CellSpace, ChainSpace, GraphSpace)}
_CODE = {"operations"}
LONG = 300  # characters of a path that an error still repeats
FORMS = "a built-in name, a JSON file, a Genotype(normal=[...], ...) text or a |primitive~0|+... string"


def as_genotype(genotype: object, own: Space | None = None, where: str = "genotype") -> Genotype:
    """Return a genotype, from the genotype itself, a result that has one, a built-in name, a file or a text.

    Args:
        genotype: A :class:`Genotype`, what a search or a retraining returned, or what :func:`read_genotype` takes.
        own: A space beside those of the library that the genotype may belong to.
        where: The beginning of errors.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(genotype, str | Path):
        return read_genotype(str(genotype), own)
    genotype = getattr(genotype, "genotype", genotype)
    return require_type(where, "genotype", genotype, Genotype, f"Or give {FORMS}.")


def read_genotype(what: str, own: Space | None = None) -> Genotype:
    """The genotype that ``what`` names, in any form that people exchange.

    Args:
        what: A built-in name (``PDARTS``), the path of a file, or the text itself.
        own: A space beside those of the library that the genotype may belong to.

    Raises:
        ValueError: If it is none of these, or not an architecture of its space.
    """
    if what in KNOWN:
        return parse_genotype(KNOWN[what])
    looks_like_text = "Genotype(" in what or what.lstrip().startswith(("|", "{"))
    if not looks_like_text:
        path = Path(what)
        got = repr(what) if len(what) < LONG else _excerpt(what)
        if not _is_file(path):
            raise invalid(WHERE, f"name must be {FORMS}", got, suggest(what, KNOWN))
        try:
            what = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ValueError(complaint(WHERE, f"file must hold {FORMS}", f"binary data in {path}")) from None
    return parse_genotype(what, own)


def parse_genotype(text: str, own: Space | None = None) -> Genotype:
    """Parse one of the three text forms and check the result against its space."""
    text = text.strip()
    if text.startswith("{"):
        return genotype_from_json(without_checksum(_parse_json(text), "the genotype"), own)
    if text.startswith("|"):
        return _parse_nasbench201(text)
    if "Genotype(" not in text:
        raise invalid(WHERE, f"text must be {FORMS}", _excerpt(text))
    return _parse_literals(text[text.index("Genotype(") :], own)


def describe_genotype(genotype: Genotype, own: Space | None = None) -> str:
    """The cells or blocks as aligned text, a line an edge, at most 80 columns wide."""
    return "\n".join(space_by_name(genotype.space, own).describe(genotype))


def genotype_from_json(data: object, own: Space | None = None) -> Genotype:
    """Build a genotype from decoded JSON and check it against its space."""
    if not isinstance(data, dict) or not isinstance(data.get("space"), str):
        raise invalid(WHERE, "JSON must name its space", _excerpt(data))
    space = space_by_name(data["space"], own)
    unknown = set(data) - {"space", *space.cell_types}
    if unknown:
        raise invalid(WHERE, f"JSON may hold the keys space, {', '.join(space.cell_types)}", sorted(unknown))
    genotype = Genotype(space.name, *(_cell_from_json(t, data.get(t)) for t in space.cell_types))
    space.check(genotype)
    return genotype


def genotype_to_json(genotype: Genotype) -> dict[str, Any]:
    """The JSON form: ``{"space", "normal": {"nodes": [[[primitive, source], ...], ...], "concat"}, ...}``."""
    cells = {
        name: {"nodes": [[list(gene) for gene in node] for node in cell.nodes], "concat": list(cell.concat)}
        for name, cell in genotype.cells.items()
    }
    return {"space": genotype.space, **cells}


@cache
def _fields(kind: type[Space]) -> Any:
    from pydantic import TypeAdapter  # noqa: PLC0415  (a machine where kernels are measured need not have it)

    return TypeAdapter(kind)


def space_to_json(space: Space) -> dict[str, Any]:
    """The graph and the primitives of ``space``, without its operations: enough to read and draw its genotypes."""
    return {"kind": type(space).__name__, **_fields(type(space)).dump_python(space, mode="json", exclude=_CODE)}


def space_from_json(data: object) -> Space:
    """The space of :func:`space_to_json`, also of files that earlier versions wrote."""
    try:
        fields: dict[str, Any] = dict(data)  # type: ignore[call-overload]
        kind = fields.pop("kind", None) or _kind_before_kinds(fields)
        expected = {name for name, field in _KINDS[kind].__dataclass_fields__.items() if field.init} - _CODE
        text = json.dumps({k: v for k, v in fields.items() if k in expected})
        return _fields(_KINDS[kind]).validate_json(text, strict=True)
    except (TypeError, KeyError, ValueError):  # pydantic's ValidationError is one
        raise invalid("space", "JSON must have the fields of a Space", _excerpt(data)) from None


def _kind_before_kinds(fields: dict[str, Any]) -> str:
    fields["shared"] = fields["name"] == "dso"
    return "ChainSpace" if fields.get("stages") else "GraphSpace" if fields.get("dag") else "CellSpace"


def genotype_to_text(genotype: Genotype) -> str:
    """The form that the field exchanges; spaces other than DARTS and NAS-Bench-201 add ``space='...'`` to it."""
    return str(genotype)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for a file
        return False


def _parse_json(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(complaint(WHERE, "JSON must be well formed", f"{error.msg} at line {error.lineno}")) from None
    except (ValueError, RecursionError):
        raise ValueError(complaint(WHERE, "JSON must be well formed", "an excess of digits or of brackets")) from None


def _cell_from_json(cell_type: str, data: object) -> CellGenotype:
    shape = '{"nodes": [[[primitive, source], ...], ...], "concat": [state, ...]}'
    try:
        nodes, concat = data["nodes"], data["concat"]  # type: ignore[index]
        return CellGenotype(tuple(tuple(_gene(gene) for gene in node) for node in nodes), tuple(map(_integer, concat)))
    except (TypeError, KeyError, ValueError):
        raise ValueError(complaint(WHERE, f"{cell_type} must have the form {shape}", _excerpt(data))) from None


def _gene(gene: Any) -> Gene:
    primitive, source = gene
    if not isinstance(primitive, str):
        raise TypeError
    return Gene(primitive, _integer(source))


def _integer(value: object) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _parse_literals(text: str, own: Space | None) -> Genotype:
    text = text.strip()
    try:
        call = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        call = None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise invalid(WHERE, "text must be one Genotype(normal=[...], normal_concat=..., ...)", _excerpt(text))
    names = [str(keyword.arg) for keyword in call.keywords]
    named = next((_literal(keyword.value, text) for keyword in call.keywords if keyword.arg == "space"), DARTS.name)
    if not isinstance(named, str):
        raise invalid(WHERE, "space must be a name", _excerpt(named))
    space = space_by_name(named, own)
    expected = [field for t in space.cell_types for field in (FIELD_NAMES[t], f"{FIELD_NAMES[t]}_concat")]
    if sorted(name for name in names if name != "space") != expected:
        rule = f"fields must be {', '.join(expected)}, each once"
        raise invalid(WHERE, rule, names)
    if names.count("space") > 1:
        raise invalid(WHERE, "space must be named once", names)
    fields = {name: _literal(keyword.value, text) for name, keyword in zip(names, call.keywords, strict=True)}
    cells = (
        _literal_cell(space, FIELD_NAMES[t], fields[FIELD_NAMES[t]], fields[f"{FIELD_NAMES[t]}_concat"])
        for t in space.cell_types
    )
    genotype = Genotype(space.name, *cells)
    space.check(genotype)
    return genotype


def _literal(node: ast.expr, text: str) -> object:
    """A literal of ``text``, or ``range(a, b)`` of literals, which the field writes for the concatenated states."""
    try:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
            if node.keywords:
                raise ValueError
            bounds = [ast.literal_eval(argument) for argument in node.args]
            if len(bounds) in (1, 2) and all(type(bound) is int and 0 <= bound <= 100 for bound in bounds):
                return list(range(*bounds))
            raise ValueError
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        source = _excerpt(ast.get_source_segment(text, node))  # ast.unparse() recurses, and may fail alike
        raise ValueError(complaint(WHERE, "fields must be literals or range(first, last)", source)) from None


def _literal_cell(space: Space, name: str, genes: object, concat: object) -> CellGenotype:
    try:
        flat = [_gene(gene) for gene in genes]  # type: ignore[attr-defined]
        states = tuple(map(_integer, concat))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        rule = f"{name} must be a list of (primitive, source) and {name}_concat a list of states"
        raise ValueError(complaint(WHERE, rule, _excerpt(genes))) from None
    counts = space.edges_named(len(flat))
    each = f", {space.kept_edges} for each of {space.num_nodes} nodes" if space.kept_edges else ""
    if len(flat) != sum(counts):
        raise invalid(WHERE, f"{name} must list {sum(counts)} edges{each}", len(flat))
    starts = [sum(counts[:node]) for node in range(space.num_nodes)]
    nodes = (tuple(flat[start : start + count]) for start, count in zip(starts, counts, strict=True))
    return CellGenotype(tuple(nodes), states)


def _parse_nasbench201(text: str) -> Genotype:
    nodes = []
    for part in text.split("+"):
        genes = [re.fullmatch(r"(\w+)~(\d{1,3})", gene) for gene in part.strip("|").split("|")]
        if not all(genes) or not part.startswith("|") or not part.endswith("|"):
            rule = "string must look like |primitive~0|+|primitive~0|primitive~1|+..."
            raise invalid(WHERE, rule, _excerpt(text))
        nodes.append(tuple(Gene(gene[1], int(gene[2])) for gene in genes if gene))
    genotype = Genotype(NASBENCH201.name, CellGenotype(tuple(nodes), NASBENCH201.concat))
    NASBENCH201.check(genotype)
    return genotype


def _excerpt(value: object) -> str:
    text = " ".join(str(value).split())
    return repr(text if len(text) <= 60 else text[:57] + "...")
