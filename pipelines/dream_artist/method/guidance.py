"""Guidance during training: one scale, or a scale that depends on the timestep (DreamArtist's "dynamic guidance").

Nothing here imports torch at module level, because params are checked before torch is loaded.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

CURVES = {"ln": "rate", "cos": "cos((rate - 1) * pi / 2)", "cos2": "1 - cos(rate * pi / 2)"}
FUNCTIONS = ("cos", "exp", "log", "sin", "sqrt", "tanh")
OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
STRONGEST = 100
NUMBER = r"(\d+\.?\d*|\.\d+)"
FORM = re.compile(rf"{NUMBER}(?:-{NUMBER}(?::(.+))?)?")


@dataclass(frozen=True)
class Guidance:
    """γ(t) = low + (high - low) · curve(rate), where rate is 0 at the first timestep and 1 at the last."""

    low: float
    high: float
    curve: ast.expr

    def at(self, t: Tensor, steps: int) -> Tensor:
        """γ [B, 1, 1, 1] float32 for timesteps t [B] of ``steps``."""
        rate = t.float() / (steps - 1)
        curve: Tensor = evaluate(self.curve, rate) + 0 * rate  # a curve may be a constant
        return (self.low + (self.high - self.low) * curve).reshape(-1, 1, 1, 1)


def parse_guidance(text: float | str) -> Guidance:
    """``3.0``, ``1.5-4`` (from the first timestep to the last) or ``1.5-4:curve``; raises ValueError.

    A curve is ln (a straight line), cos, cos2, or an expression of ``rate`` such as ``rate ** 2`` or ``sqrt(rate)``:
    numbers, + - * / **, pi and the functions cos, exp, log, sin, sqrt, tanh. The text is never run as Python code.
    """
    match = FORM.fullmatch(str(text).replace(" ", ""))
    if not match:
        raise ValueError(f"`guidance` is `{text}`, which is not a number, `low-high` or `low-high:curve`")
    low, high, curve = match.groups()
    if not 0 < max(float(low), float(high or 0)) <= STRONGEST:
        raise ValueError(f"`guidance` is `{text}`: a scale is above 0, and at most {STRONGEST}")
    expression = CURVES.get(curve or "ln", curve)
    try:
        tree = ast.parse(expression, mode="eval").body
        values = [evaluate(tree, rate) for rate in (0.0, 0.5, 1.0)]
    except (SyntaxError, ValueError, ArithmeticError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"`guidance` has the curve `{curve}`, which cannot be computed ({error})") from None
    if not all(isinstance(value, float) and math.isfinite(value) for value in values):
        raise ValueError(f"`guidance` has the curve `{curve}`, which is not a number at every rate from 0 to 1")
    return Guidance(float(low), float(high or low), tree)


def evaluate(node: ast.expr, rate: Any) -> Any:
    """The value of an expression at ``rate``, a float or a tensor; raises ValueError for anything but arithmetic."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.Name(id="rate"):
            return rate
        case ast.Name(id="pi"):
            return math.pi
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](evaluate(left, rate), evaluate(right, rate))
        case ast.UnaryOp(op, operand) if type(op) in OPERATORS:
            return OPERATORS[type(op)](evaluate(operand, rate))
        case ast.Call(ast.Name(id=name), [argument], []) if name in FUNCTIONS:
            value = evaluate(argument, rate)
            return getattr(math, name)(value) if isinstance(value, float) else getattr(value, name)()
    raise ValueError(f"`{ast.unparse(node)}` is not allowed in a curve")
