"""A Jinja environment for templates that nobody here has read: no files, no attributes, and an end in sight.

Jinja's own sandbox keeps templates away from Python's internals and bounds `range`. It bounds neither time nor memory:
nested loops, `'a' * 10**9`, strings that double in a loop. So here a render has a `Budget`, and everything that can
grow charges it: operators, calls, filters, printing, loops and macros.
"""

import json
import re
import time
from collections.abc import Callable, ItemsView, KeysView, Mapping, Sequence, ValuesView
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import Environment, Template, TemplateError, Undefined, nodes, pass_context, pass_environment
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import FILTERS
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

_BUDGET = " budget"  # no template can name it: it is not an identifier
_TICK = " tick"
_CONCAT = " concat"
_DISPLAY = " display"

_UNITS_PER_PLACE = 8
_MAX_DEPTH = 100
_MAX_WIDTH = 2**20
_MAX_MARGIN = 64
_MAX_INTEGER_BITS = 4096

_UNBOUNDED_METHODS = frozenset({"translate", "maketrans", "to_bytes"})
_PADDING_METHODS = frozenset({"ljust", "rjust", "center", "zfill", "expandtabs"})
_WIDE_FORMAT = re.compile(r"\d{6}")
_NESTED_FORMAT = re.compile(r":[^}:]*\{")
# Rarely of use in a prompt, and each with a cost or a growth of its own.
_OMITTED_FILTERS = frozenset(
    {"batch", "center", "pprint", "random", "slice", "striptags", "urlize", "wordwrap", "xmlattr"}
)
_OMITTED_GLOBALS = frozenset({"lipsum"})


class TooMuch(TemplateError):
    """The template goes on for too long, or makes too much."""


@dataclass(frozen=True)
class Limits:
    """What one render may use: so much, and so much more for each unit of its input.

    They leave room for what real templates do: reading each message a few times, adding up a text in a loop.
    """

    cpu_s: tuple[float, float] = (2.0, 2e-6)
    steps: tuple[float, float] = (1_000_000, 1)
    built: tuple[float, float] = (256 * 2**20, 256)  # units made on the way, most of them soon dropped
    output: tuple[float, float] = (2**20, 4)  # characters of the result


class Budget:
    """What one render may still spend. A unit is a byte or so: a character is one, a place in a list eight."""

    def __init__(self, limits: Limits, input_units: int) -> None:
        cpu_s, self._steps_left, self._built_left, self.max_output = (
            base + each * input_units for base, each in (limits.cpu_s, limits.steps, limits.built, limits.output)
        )
        self._deadline_s = time.thread_time() + cpu_s

    def spend(self, units: int) -> None:
        """Charge text or lists just made, or about to be."""
        self._built_left -= units
        if self._built_left < 0:
            raise TooMuch("it builds too much text")

    def step(self) -> None:
        """Charge one turn of a loop, or one call."""
        self._steps_left -= 1
        if self._steps_left < 0 or time.thread_time() > self._deadline_s:
            raise TooMuch("it runs for too long")


def weigh(value: Any) -> int:
    """Units that `value` takes when printed in full. TooMuch where it is nested too deeply.

    Each distinct list or dict is visited once, so that lists which share their parts cannot make this slow.
    """
    return _weigh(value, {}, 0)


def _weigh(value: Any, known: dict[int, int], depth: int) -> int:
    if isinstance(value, str | bytes):
        return 1 + len(value)
    if isinstance(value, Namespace):
        raise TooMuch("it prints a namespace")
    if not isinstance(value, dict | list | tuple | set | KeysView | ValuesView | ItemsView):
        return _UNITS_PER_PLACE
    if id(value) in known:
        return known[id(value)]
    if depth > _MAX_DEPTH:
        raise TooMuch("values are nested too deeply")
    children = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    known[id(value)] = total = 1 + sum([_weigh(child, known, depth + 1) for child in children])
    return total


def _units(value: Any) -> int:
    """Units of a result by itself, without what its places hold."""
    if isinstance(value, str | bytes):
        return len(value)
    return _UNITS_PER_PLACE * len(value) if isinstance(value, list | tuple | dict) else 1


def _budget(context: Context) -> Budget:
    budget = context.parent[_BUDGET]
    assert isinstance(budget, Budget)
    return budget


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of chat templates, as `transformers` documents it, with a budget."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # constant folding would run filters while compiling, where no budget is
            finalize=_finalize,
            extensions=["jinja2.ext.loopcontrols", _Generation],
            cache_size=0,
        )
        self.filters = {name: _metered(function) for name, function in FILTERS.items() if name not in _OMITTED_FILTERS}
        self.filters |= {"tojson": _metered(_tojson), "format": _metered(_format), "sum": _sum, "round": _round}
        self.filters |= {"join": _join, "replace": _replace, "string": _string, "indent": _indent}
        self.filters |= {_TICK: _tick, _CONCAT: _concat, _DISPLAY: _display}
        for name in _OMITTED_GLOBALS:
            del self.globals[name]
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda pattern: now().strftime(_checked_format(pattern))

    def compile_tree(self, tree: nodes.Template) -> Template:
        """Compile a parsed template, with the charges put in."""
        return self.from_string(_Meter().visit(tree))

    def render(self, template: Template, values: dict[str, Any], budget: Budget) -> str:
        """The text of `template`. Raises Jinja's errors, Python's own from the template's expressions, and TooMuch."""
        parts = []
        length = 0
        for part in template.generate({**values, _BUDGET: budget}):
            length += len(part)
            if length > budget.max_output:
                raise TooMuch(f"its text is longer than {budget.max_output:.0f} characters")
            parts.append(part)
        return "".join(parts)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """A call in a template; the underscores leave every keyword name to the callee, as in the base class."""
        budget = _budget(__context)
        budget.step()
        if getattr(__obj, "__name__", "") == "join" and len(args) == 1:
            args = ([*args[0]],)  # so that its length is known
        _check_method(budget, __obj, args, kwargs)
        result = super().call(__context, __obj, *args, **kwargs)
        budget.spend(weigh(result) if isinstance(result, dict) else _units(result))
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`+ * ** %`: refused before they run where the result would be too large."""
        if operator in ("*", "**"):
            _check_product(operator, left, right)
        elif operator == "%" and isinstance(left, str | bytes):
            _checked_format(str(left), right)
        _budget(context).spend(_result_units(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call_filter(
        self,
        name: str,
        value: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        context: Context | None = None,
        eval_ctx: EvalContext | None = None,
    ) -> Any:
        """A filter called by another one (`map`), once an item."""
        if context is not None:
            _budget(context).step()
        return super().call_filter(name, value, args, kwargs, context, eval_ctx)

    def call_test(
        self,
        name: str,
        value: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        context: Context | None = None,
        eval_ctx: EvalContext | None = None,
    ) -> Any:
        """A test called by a filter (`select`), once an item."""
        if context is not None:
            _budget(context).step()
        return super().call_test(name, value, args, kwargs, context, eval_ctx)


# --- charges in the tree ---------------------------------------------------------------------------------------------


class _Meter(NodeTransformer):
    """Puts a charge at the start of every loop and macro body, and around `~` and list displays."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._ticking(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._ticking(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._ticking(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter_node(node.nodes[0], _CONCAT, node.nodes[1:])

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._displayed(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._displayed(node) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._displayed(node)

    def _ticking(self, node: Any) -> nodes.Node:
        printed = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        tick = nodes.ExprStmt(_filter_node(nodes.Const(printed), _TICK, []))
        node.body.insert(0, tick.set_lineno(node.lineno))
        return node  # type: ignore[no-any-return]

    def _displayed(self, node: nodes.Expr) -> nodes.Node:
        plain = all(isinstance(child, nodes.Const) for child in node.iter_child_nodes())
        self.generic_visit(node)
        return node if plain else _filter_node(node, _DISPLAY, [])


def _filter_node(node: nodes.Expr, name: str, args: list[nodes.Expr]) -> nodes.Filter:
    return nodes.Filter(node, name, args, [], None, None, lineno=node.lineno or 1)


@pass_context
def _tick(context: Context, printed: Any) -> str:
    budget = _budget(context)
    budget.step()
    budget.spend(printed if isinstance(printed, int) and printed > 0 else 0)
    return ""


@pass_context
def _concat(context: Context, *values: Any) -> str:
    _budget(context).spend(sum(map(weigh, values)))
    return "".join(map(str, values))


@pass_context
def _display(context: Context, value: Any) -> Any:
    _budget(context).spend(weigh(value))
    return value


@pass_context
def _finalize(context: Context, value: Any) -> Any:
    _budget(context).spend(weigh(value))
    return value


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks the model's own words for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  the base class declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=lineno)


# --- checks before something large is made ---------------------------------------------------------------------------


def _check_product(operator: str, left: Any, right: Any) -> None:
    if not isinstance(left, int) or not isinstance(right, int):
        return
    bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
    if bits > _MAX_INTEGER_BITS:
        raise TooMuch("it computes a number that is too large")


def _result_units(operator: str, left: Any, right: Any) -> int:
    if operator == "+":
        return _units(left) + _units(right)
    if operator == "%" and isinstance(left, str | bytes):
        return _units(left) + weigh(right)
    if operator == "*":
        times, sequence = (left, right) if isinstance(left, int) else (right, left)
        return _units(sequence) * times if isinstance(times, int) and times > 0 else 1
    return 1


def _check_method(budget: Budget, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Methods of strings, bytes and numbers whose result may be far larger than their arguments."""
    method = getattr(function, "__wrapped__", function)  # Jinja's sandbox wraps str.format
    owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
    if not isinstance(owner, str | bytes | int):
        return
    if name in _UNBOUNDED_METHODS:
        raise SecurityError(f"the method {name} is not available in chat templates")
    if name in _PADDING_METHODS and any(isinstance(arg, int) and arg > _MAX_WIDTH for arg in (*args, *kwargs.values())):
        raise TooMuch("it pads a text too far")
    if name in ("format", "format_map") and isinstance(owner, str):
        _checked_format(owner, (*args, *kwargs.values()))
        budget.spend(weigh(args) + weigh(kwargs))
    elif name == "replace" and len(args) >= 2 and isinstance(owner, str | bytes):
        _check_replace(budget, owner, args[0], args[1])
    elif name == "join" and args and isinstance(owner, str | bytes):
        budget.spend(len(owner) * len(args[0]) + weigh(args[0]))


def _check_replace(budget: Budget, text: Any, old: Any, new: Any) -> None:
    if isinstance(old, type(text)) and isinstance(new, type(text)):
        budget.spend(len(text) + text.count(old) * len(new))


def _checked_format(pattern: Any, values: Any = ()) -> str:
    """`pattern`, unless it (or a number given for `*`) asks for a very wide field."""
    if not isinstance(pattern, str):
        raise TypeError("the format must be text")
    numbers = values if isinstance(values, tuple) else (values,)
    nested = "*" in pattern or _NESTED_FORMAT.search(pattern)
    if _WIDE_FORMAT.search(pattern) or (nested and any(isinstance(n, int) and n > _MAX_WIDTH for n in numbers)):
        raise TooMuch("it formats a text too wide")
    return pattern


# --- filters and globals ---------------------------------------------------------------------------------------------


def _metered(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that charges for its result. Jinja marks what a filter wants to be passed first; that is kept."""
    passed = getattr(getattr(function, "jinja_pass_arg", None), "name", None)

    @pass_context
    def metered(context: Context, *args: Any, **kwargs: Any) -> Any:
        first = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        result = function(first[passed], *args, **kwargs) if passed else function(*args, **kwargs)
        _budget(context).spend(_units(result))
        return result

    return metered


@pass_context
def _tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As `transformers` does it: plain JSON, without the HTML escapes of Jinja's own filter."""
    margin_width = indent if isinstance(indent, int) else len(indent or "")
    separator_widths = [len(separator) for separator in separators or ()]
    if max(margin_width, *separator_widths, 0) > _MAX_MARGIN:
        raise TooMuch("it indents JSON too far")
    _budget(context).spend(weigh(value))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _format(pattern: Any, *args: Any, **kwargs: Any) -> str:
    """`'%s'|format(value)`."""
    pattern = _checked_format(str(pattern), (*args, *kwargs.values()))
    return str(pattern % (kwargs or args))


@pass_environment
def _sum(environment: Environment, values: Any, attribute: str | int | None = None, start: Any = 0) -> Any:
    if not isinstance(start, int | float):
        raise TypeError("sum adds numbers only")  # lists would be copied once an item
    return FILTERS["sum"](environment, values, attribute, start)


def _round(value: float, precision: int = 0, method: Any = "common") -> float:
    if abs(precision) > _MAX_MARGIN:
        raise TooMuch("it rounds to too many digits")  # round(1, -10**9) computes 10**(10**9)
    return float(FILTERS["round"](value, precision, method))


@pass_context
def _join(context: Context, value: Any, d: Any = "", attribute: str | int | None = None) -> str:
    items = list(value) if attribute is None else list(FILTERS["map"](context, value, attribute=attribute))
    _budget(context).spend(weigh(items) + len(items) * weigh(d))
    return str(d).join(map(str, items))


@pass_context
def _replace(context: Context, text: Any, old: Any, new: Any, count: int = -1) -> str:
    text, old, new = str(text), str(old), str(new)
    _check_replace(_budget(context), text, old, new)
    return str(text.replace(old, new, count))


@pass_context
def _string(context: Context, value: Any) -> str:
    _budget(context).spend(weigh(value))
    return str(value)


@pass_context
def _indent(context: Context, text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    if not isinstance(width, str) and width > _MAX_WIDTH:
        raise TooMuch("it indents a text too far")
    margin = width if isinstance(width, str) else " " * width
    _budget(context).spend(len(text) + (text.count("\n") + 1) * len(margin))
    return str(FILTERS["indent"](text, margin, first, blank))


def _raise_exception(message: Any) -> None:
    raise TemplateError(str(message) if not isinstance(message, Undefined) else "")
