"""Chat messages to a prompt, by the checkpoint's own Jinja template."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes

from tradewind.base.errors import CheckpointError, RequestError
from tradewind.text.messages import ContentShape, mark_end, prepare
from tradewind.text.sandbox import Budget, Limits, Sandbox, weigh

_MAX_SOURCE_CHARACTERS = 2**20
_DEFAULT_LIMITS = Limits()
_END_MARK = "\ue000end of the last message\ue001"
_COMPILE_ERRORS = (TemplateError, SyntaxError, ValueError, RecursionError, MemoryError)
# What a template's own expressions may raise, besides Jinja's errors: TypeError for None + '', KeyError, and so on.
_RENDER_ERRORS = (
    TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


class ChatTemplate:
    """A compiled template. Rendering is bounded in time and size, and reaches nothing but its arguments."""

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, Any],
        *,
        tools_source: str | None = None,
        now: Callable[[], datetime] = datetime.now,
        limits: Limits = _DEFAULT_LIMITS,
    ) -> None:
        """`special_tokens` (`bos_token` and so on) are variables of the template; `now` serves `strftime_now`.

        `tools_source` is the template to use for requests with tools, where it is another. Raises CheckpointError for
        a template that is not valid Jinja.
        """
        self.source = source
        self._special_tokens = dict(special_tokens)
        self._limits = limits
        self._sandbox = Sandbox(now)
        self._plain = _Compiled(self._sandbox, source)
        self._with_tools = self._plain if tools_source is None else _Compiled(self._sandbox, tools_source)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt for `messages`.

        `variables` are more variables for the template (`chat_template_kwargs`). With `continue_final_message` the
        prompt ends where the last message's text does, whatever `add_generation_prompt` says. RequestError
        (field="messages", or a place in there) where they are malformed, or the template refuses them, fails or goes on
        for ever.
        """
        compiled = self._with_tools if tools else self._plain
        prepared = prepare(messages, compiled.content_shape)
        if continue_final_message:
            mark_end(prepared, _END_MARK + " ")
        values = {
            **self._special_tokens,
            **(variables or {}),
            "messages": prepared,
            "tools": list(tools) if tools else None,
            "add_generation_prompt": add_generation_prompt and not continue_final_message,
        }
        try:
            text = self._sandbox.render(compiled.template, values, Budget(self._limits, weigh(values)))
        except _RENDER_ERRORS as error:
            raise RequestError(f"the chat template refused the messages: {_reason(error)}", field="messages") from error
        return _cut(text) if continue_final_message else text


class _Compiled:
    """A template, and the shape of content that it can read."""

    def __init__(self, sandbox: Sandbox, source: str) -> None:
        try:
            if len(source) > _MAX_SOURCE_CHARACTERS:
                raise ValueError(f"it is longer than {_MAX_SOURCE_CHARACTERS} characters")
            tree = sandbox.parse(source)
            self.content_shape = _content_shape(tree)
            self.template = sandbox.compile_tree(tree)
        except _COMPILE_ERRORS as error:
            line = getattr(error, "lineno", None)
            place = f" (line {line})" if line else ""
            raise CheckpointError(f"the chat template is not valid{place}: {error}", field="chat_template") from error


def _content_shape(tree: nodes.Template) -> ContentShape:
    """A template that loops over the content reads parts; one that also asks for its type reads text, too."""
    if not _loops_over_content(tree):
        return ContentShape.TEXT
    asks = any(test.name in ("string", "iterable", "sequence", "mapping") for test in tree.find_all(nodes.Test))
    return ContentShape.EITHER if asks else ContentShape.PARTS


def _loops_over_content(tree: nodes.Template) -> bool:
    aliases = {"content"}
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name) and _is_content(assign.node, set()):
            aliases.add(assign.target.name)
    return any(_is_content(loop.iter, aliases) for loop in tree.find_all(nodes.For))


def _is_content(node: nodes.Node, aliases: set[str]) -> bool:
    if isinstance(node, nodes.Filter) and node.node is not None:
        return _is_content(node.node, aliases)
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
    return isinstance(node, nodes.Name) and node.name in aliases


def _cut(text: str) -> str:
    """Everything before the end mark; a template that trims the text has trimmed the mark's own space, too."""
    place = text.rfind(_END_MARK)
    if place < 0:
        raise RequestError("the chat template drops the last message, so it cannot be continued", field="messages")
    trimmed = not text.startswith(" ", place + len(_END_MARK))
    return text[:place].rstrip() if trimmed else text[:place]


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it calls itself without end"
    if isinstance(error, MemoryError):
        return "it needs too much memory"
    return str(error) or type(error).__name__
