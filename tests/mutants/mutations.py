"""The mutants of a module: which operators of Cosmic Ray are applied where, and the sample that is tested."""

from __future__ import annotations

import ast
import difflib
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator
from parso.python.tree import Keyword

__all__ = ["Mutant", "Span", "mutants_of", "sample", "unmutated_spans"]

Span = tuple[tuple[int, int], tuple[int, int]]
"""First and last position in a source text, each as line (from 1) and column (from 0)."""

COMPARISONS = "Eq_NotEq NotEq_Eq Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE Gt_LtE GtE_Gt GtE_Lt Is_IsNot IsNot_Is"
BINARY = (
    "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_Mul Pow_Mul "
    "LShift_RShift RShift_LShift BitAnd_BitOr BitOr_BitAnd BitXor_BitAnd"
)
UNARY = "USub_UAdd Delete_Invert Delete_Not"
OTHERS = (
    "AddNot ReplaceTrueWithFalse ReplaceFalseWithTrue ReplaceAndWithOr ReplaceOrWithAnd ReplaceBreakWithContinue "
    "ReplaceContinueWithBreak ExceptionReplacer NumberReplacer ZeroIterationForLoop"
)


class RemoveStatement(Operator):
    """Replaces a statement that has an effect by ``pass``; Cosmic Ray has no such operator.

    Such statements are calls, assignments to attributes and elements, augmented assignments, ``raise``, ``del``, and
    ``return`` without a value.
    """

    def mutation_positions(self, node):
        if node.parent is not None and node.parent.type == "simple_stmt" and self._has_effect(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        return Keyword("pass", node.start_pos, node.get_first_leaf().prefix)

    @classmethod
    def examples(cls):
        return ()

    @staticmethod
    def _has_effect(node) -> bool:
        if node.type == "expr_stmt":
            return node.children[0].type == "atom_expr" or getattr(node.children[1], "value", "=") != "="
        return node.type in ("atom_expr", "raise_stmt", "del_stmt") or getattr(node, "value", "") == "return"


OPERATORS: dict[str, type[Operator]] = {
    "RemoveStatement": RemoveStatement,
    **{
        name: get_operator(f"core/{name}")
        for name in [
            *(f"ReplaceComparisonOperator_{pair}" for pair in COMPARISONS.split()),
            *(f"ReplaceBinaryOperator_{pair}" for pair in BINARY.split()),
            *(f"ReplaceUnaryOperator_{pair}" for pair in UNARY.split()),
            *OTHERS.split(),
        ]
    },
}
"""One or two replacements of each operator; Cosmic Ray has all pairs, most of which the same tests kill."""


@dataclass(frozen=True)
class Mutant:
    """One change of a module: the ``occurrence``-th place of an operator, which is in ``line``."""

    operator: str
    occurrence: int
    line: int
    text: str

    def applied(self, source: str) -> str:
        """The module with this change."""
        mutated = mutate_code(source, OPERATORS[self.operator](), self.occurrence)
        assert mutated is not None
        return mutated

    def difference(self, source: str) -> str:
        """Line number, operator, and the changed lines before and after."""
        lines = difflib.unified_diff(source.splitlines(), self.applied(source).splitlines(), n=0, lineterm="")
        changed = (f"  {line[0]} {line[1:].strip()}" for line in list(lines)[3:])
        return "\n".join([f"line {self.line}, {self.operator}", *changed])


def mutants_of(source: str) -> Iterator[Mutant]:
    """Every mutant of a module, except those in :func:`unmutated_spans`."""
    nodes, lines, excluded = list(ast_nodes(get_ast(source))), source.splitlines(), unmutated_spans(source)
    for name, operator_class in OPERATORS.items():
        operator = operator_class()
        places = ((node, place) for node in nodes for place in operator.mutation_positions(node))
        for occurrence, (node, (start, end)) in enumerate(places):
            marker = node.type == "operator" and node.parent.type in (
                "parameters",
                "param",
            )  # * and / of a signature
            if not marker and not any(first <= start and end <= last for first, last in excluded):
                yield Mutant(name, occurrence, start[0], lines[start[0] - 1].strip())


def sample(mutants: list[Mutant], most: int) -> list[Mutant]:
    """At most ``most`` of the mutants (0: all), by a hash of line and operator: other lines do not change the choice."""
    seen: Counter[str] = Counter()
    keys: dict[Mutant, bytes] = {}
    for mutant in mutants:
        same = f"{mutant.operator}|{mutant.text}"
        keys[mutant] = hashlib.sha256(f"{same}|{seen[same]}".encode()).digest()
        seen[same] += 1
    chosen = sorted(mutants, key=keys.__getitem__)[:most] if most else mutants
    return sorted(chosen, key=lambda mutant: (mutant.line, mutant.operator, mutant.occurrence))


def unmutated_spans(source: str) -> list[Span]:
    """Where a change is no fault: annotations, messages of errors, log calls, ``zip(strict=...)``, decorators, protocols.

    Statements that only check or describe (``assert``, ``__repr__``, ``__all__``) belong to them, too.
    """
    found: list[ast.AST | None] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.arg() | ast.AnnAssign():
                found.append(node.annotation)
            case ast.FunctionDef(name=name):
                found += [node if name == "__repr__" else None, node.returns, *node.decorator_list]
            case ast.ClassDef(bases=bases):
                found += [node if "Protocol" in map(ast.unparse, bases) else None, *node.decorator_list]
            case ast.Raise():
                found.append(node.exc)
            case ast.Assert():
                found.append(node)
            case ast.Call(func=func) if ast.unparse(func).startswith("_log."):
                found.append(node)
            case ast.Call():
                found += [keyword for keyword in node.keywords if keyword.arg == "strict"]
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in found if n is not None]
