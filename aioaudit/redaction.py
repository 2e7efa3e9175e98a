"""Private. What must not leave the process is replaced in what does: secrets, and what a setting names.

Goal: a log can be given to whoever looks for a fault.  All of it is done in the thread of an
exporter, on its way there, so no loop waits for it; the one exception is `aioaudit.recorder.notes`,
whose notes have to be there at once.

- Nothing here knows what an event is: `Redaction.of` goes by the names of an object's fields, so
  events, links of a chain and the answers about living tasks all have it from here.
- Texts are short (`aioaudit.text.clean`), and what is not, such as an argument, is cut here before
  anything is looked for in it.  No pattern takes longer than the square of that: nothing that may
  be repeated is in something that may be, and what was passed by is not tried in another way.
- Rather a word too many is hidden than one too few.  A name of code is never taken for a secret:
  ``shop.token:refresh`` is a function.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from aioaudit.settings import DEFAULT_REDACT, REDACTABLE, SECRETS
from aioaudit.text import MARK

T = TypeVar("T", bound=Struct)

MASK = "***"
"""What stands where something was hidden."""

LONGEST = 2_000
"""Characters in which anything is looked for; what comes after them is cut off."""

PLAIN = 20
"""A text shorter than this, without any of `TELLING`, holds no secret that is known as one."""

TELLING = frozenset("=: ")

WITH_SECRETS = ("argv", "detail", "error", "message", "name")
"""The keys in which secrets are looked for: texts of the program, and no names of code."""

QUOTED_IN_DETAIL = ("error", "message", "name")
"""The keys whose values a ``detail`` may quote; what hides them hides them there."""

_EVERYWHERE = ("at", "coro", "name", "source", "thread")
"""What every line about a task has."""

_MOST_KNOWN = 1_000
"""Texts of which it is kept what becomes of them."""


# -- secrets -------------------------------------------------------------------------------

# What makes a key a secret's.  What only counts or names secrets (max_tokens, token_url) is none's.
_WORD = (
    r"(?:pass(?:word|wd|phrase|code)|(?<![a-z])(?:pwd|pass)(?![a-z])|secret(?!s)|token(?!s|i[sz])"
    r"|api[-_ ]?key|(?:access|account|auth|encryption|master|private|secret|shared|signing)[-_]?key"
    r"|credentials?|(?<![a-z])(?:auth|sig|jwt)(?![a-z])|signature|sess(?:ion)?[-_]?id"
    r"|authorization|cookie)"
)
_REST = (
    r"(?![-_.]?(?:file|path|dir|length|len|size|count|limit|type|ttl|timeout|expir\w{0,10}|policy"
    r"|prompt|url|uri|endpoint|version|error|exception|warning)(?![a-z]))[\w.\-]{0,40}+"
)
_KEY = rf"(?i:{_WORD}{_REST})"

_STRING = (
    # As JSON and Python have it; and the same inside of another one, where its quotes are escaped.
    r"""\\"(?:[^"\\]|\\{2,}"?|\\(?!"))*+(?:\\")?|\\'(?:[^'\\]|\\{2,}'?|\\(?!'))*+(?:\\')?"""
    r"""|"(?:[^"\\]|\\[\s\S])*+"?|'(?:[^'\\]|\\[\s\S])*+'?"""
)

_PAIR = re.compile(
    # key=value, key := value; "key": value, as JSON and Python have it, and in a list of arguments
    # or of headers, "key", "value"; key: value with a blank, where it ends no name of a class.
    rf"""({_KEY}(?:\\?["']?\s{{0,3}}(?::=|=>|==?)\s{{0,3}}|\\?["']\s{{0,3}}[:,]\s{{0,3}})[bfru]?"""
    rf"""|(?<![a-z]){_KEY}:\s{{1,3}}|(?<![\w.])(?i:password|passwd|secret|(?:x-)?api-?key):)"""
    # Two words where the first is the scheme of an Authorization header.
    r"""((?i:(?:bearer|basic|digest|negotiate|token|apikey)\s{1,3})?+)"""
    # All that belongs to a Digest; a string; a tuple or a dict; a word, which may have quotes in it.
    rf"""((?i:(?<=digest\s))[^\r\n]++|{_STRING}|[(\[{{][^)\]}}]*+[)\]}}]?"""
    r"""|(?:[^\s,;&"']|["'](?=\w))++)"""
)
"""A key and its secret; what is hidden is the last group."""

_COOKIE = re.compile(r"""((?i:cookie)\\?["']?\s{0,3}[:=,]\s{0,3}\\?["']?)([^\s"'][^\r\n"']*+)""")
"""A header with cookies: all of them."""

_OPTION = re.compile(r"(?<![\w.\-])(--?([\w.\-]{1,100}+)\s{1,3})([^-\s]\S*+)")
"""An option of a command line, in a text, with its value behind a blank."""

_OPTION_ALONE = re.compile(r"(?!--no-)[\w.\-]{1,100}")
"""An option as an argument of its own, whose value may be the next one."""

_ENDS_AS_KEY = re.compile(rf"{_KEY}\Z")
"""What makes an option that of a secret."""

_SCHEME = re.compile(
    r"\b((?i:bearer|basic)\s{1,3})"
    r"(?!(?i:tokens?|auth\w*|scheme|realm|is|was|not|and|or|in|for|of|the|a|an|with|header|error"
    r"|type|usage|example|invalid|missing|required|expired|rejected|failed)(?!\w))"
    r"""([^\s,;"']++)"""
)
"""What comes after the scheme of an Authorization header, where it is no plain English."""

_URL = re.compile(
    rf"""(://[^\s/?#@:"'<>]*+:)(?:[^\s/?#"'<>]*(@|{MARK})"""
    rf"""|(?!\d{{1,5}}[/?#])[^\s"'<>@{MARK}]*+(@|{MARK}))"""
)
"""The password in a URL, which may hold a slash, for not all do it right; also where the text was cut
before its end came."""

_SHAPE = re.compile(
    r"\b(?:(?:AKIA|ASIA|AROA|AIDA)[0-9A-Z]{12,}+"  # AWS
    r"|gh[oprsu]_\w{16,}+|github_pat_\w{16,}+|glpat-[\w\-]{16,}+"
    r"|xox[abeprs]-[\w\-]{8,}+|(?:sk|pk|rk)[-_][\w\-]{16,}+|AIza[\w\-]{30,}+|hf_\w{20,}+"
    r"|npm_\w{20,}+|pypi-[\w\-]{16,}+|eyJ[\w\-]{8,}+\.[\w\-]{4,}+(?:\.[\w\-]*+)?"
    # What there is of one where the text was cut.
    r"|(?:AKIA|ASIA|AROA|AIDA|gh[oprsu]_|github_pat_|glpat-|xox[abeprs]-|(?:sk|pk|rk)[-_]|AIza|hf_"
    rf"|npm_|pypi-|eyJ)[\w.\-]{{0,200}}+{MARK})"
    r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[\s\S]*+"
)
"""What is a secret by its looks: keys and tokens of well-known services, JWTs, private keys."""


_OF_KEYS = ("pass", "pwd", "secret", "token", "key", "cred", "auth", "sig", "jwt", "sess", "cookie")
_OF_SCHEMES = ("bearer", "basic")
_OF_AWS = ("AKIA", "ASIA", "AROA", "AIDA")
_OF_SERVICES = ("gh", "glpat", "xox", "sk", "pk", "rk", "AIza", "hf_", "npm_", "pypi", "eyJ")
_OF_SHAPES = (*_OF_AWS, *_OF_SERVICES, "-----BEGIN")
"""What a text must hold to hold a secret of that kind: most have nothing of it, and are done with."""


def _hide_value(found: re.Match[str]) -> str:
    before, scheme, value = found.groups()
    if value[0] in "([{":
        return f"{before}{scheme}{MASK}"
    quote = value[: 2 if value[0] == "\\" else 1] if value[0] in "\\\"'" else ""
    if quote.rstrip("\"'") == quote:  # a backslash that is part of the value
        quote = ""
    if quote:
        return f"{before}{scheme}{quote}{MASK}{quote if value.endswith(quote[-1]) else ''}"
    rest = value.rstrip(")]}>.")  # of what stands around it
    return f"{before}{scheme}{MASK}{value[len(rest) :]}" if rest else found[0]


def _hide_in_url(found: re.Match[str]) -> str:
    return f"{found[1]}{MASK}{found[2] or found[3]}"


def _hide_option(found: re.Match[str]) -> str:
    return f"{found[1]}{MASK}" if _ENDS_AS_KEY.search(found[2]) else found[0]


def hide_secrets(text: str) -> str:
    """*text* with `MASK` in the place of each obvious secret; the same object where there is none."""
    if len(text) < PLAIN and TELLING.isdisjoint(text):
        return text
    hidden = text
    if "://" in hidden:
        hidden = _URL.sub(_hide_in_url, hidden)
    lower = hidden.lower()
    if any(each in lower for each in _OF_KEYS):
        hidden = _PAIR.sub(_hide_value, hidden)
        hidden = _COOKIE.sub(rf"\1{MASK}", hidden)
        hidden = _OPTION.sub(_hide_option, hidden)
    if any(each in lower for each in _OF_SCHEMES):
        hidden = _SCHEME.sub(rf"\1{MASK}", hidden)
    if any(each in hidden for each in _OF_SHAPES):
        hidden = _SHAPE.sub(MASK, hidden)
    return text if hidden == text else hidden


def hide_in_arguments(arguments: list[str]) -> list[str]:
    """*arguments* of a command line with their secrets hidden: ``--password=X``, ``--token X``."""
    found: list[str] = []
    follows = False  # whether it is the value of the option before it
    for each in arguments:
        if follows and not each.startswith("--"):
            found.append(MASK)
            follows = False
            continue
        option, equals, _ = each.partition("=")
        follows = False
        named = (equals or each.startswith("-")) and _OPTION_ALONE.fullmatch(option)
        if named and _ENDS_AS_KEY.search(option):
            found.append(f"{option}={MASK}" if equals else each)
            follows = not equals
        else:
            found.append(hide_secrets(each))
    return found


# -- patterns ------------------------------------------------------------------------------


def compiled(pattern: str) -> re.Pattern[str]:
    """What finds the words of *pattern*, in which ``*`` and ``?`` stand for what is no blank."""
    first, *rest = (
        "".join(r"\S" if each == "?" else re.escape(each) for each in part)
        for part in re.split(r"\*+", pattern)
    )
    # What begins with a star begins with a word: there is one try for each.
    text = first or r"(?<!\S)"
    for part in rest:
        # Lazy and atomic: the nearest fit is as good as any, so no other one is tried.
        text += rf"(?>\S*?{part})" if part else r"\S*+"
    return re.compile(text, re.IGNORECASE)


def family_of(key: str) -> str | None:
    """The one of `REDACTABLE` that the field *key* has its text of, None for no text of the program's."""
    if key in ("timeouts", "groups"):  # each is a ``path:line``
        return "at"
    if key == "callers":
        return "source"
    if key in ("local", "peer"):
        return "address"
    return next(
        (each for each in REDACTABLE if key == each or key.endswith((f"_{each}", f"_{each}s"))),
        None,
    )


class _Fields(NamedTuple):
    """Those of a kind of records that may be changed: each with its family, and what gets their values."""

    named: tuple[tuple[str, str], ...]
    values_of: Callable[[Any], tuple[Any, ...]]


def _getter(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """What gets the values of *names*, all at once."""
    if len(names) > 1:
        return attrgetter(*names)
    if not names:
        return lambda _: ()
    value_of = attrgetter(names[0])
    return lambda what: (value_of(what),)


_NOT_TELLING = TELLING.isdisjoint


class Redaction:
    """What becomes of texts on their way out.

    Args:
        rules: As `Settings.redact` has them, checked.
    """

    def __init__(self, rules: tuple[str, ...] = DEFAULT_REDACT) -> None:
        self.rules = rules
        self._secrets = SECRETS in rules
        self._hidden: set[str] = set()
        self._patterns: dict[str, list[re.Pattern[str]]] = {}
        for rule in rules:
            key, equals, pattern = rule.partition("=")
            for each in REDACTABLE if key == "*" else (key,) if key in REDACTABLE else ():
                if equals:
                    self._patterns.setdefault(each, []).append(compiled(pattern))
                else:
                    self._hidden.add(each)
        if not self._hidden.isdisjoint(QUOTED_IN_DETAIL):
            self._hidden.add("detail")
        quoted = [one for each in QUOTED_IN_DETAIL for one in self._patterns.get(each, ())]
        if quoted:
            self._patterns["detail"] = [*self._patterns.get("detail", ()), *quoted]
        self._known: dict[tuple[str, str], str] = {}
        self._fields: dict[type[Any], _Fields] = {}
        self.looks_at_all = any(
            each in self._hidden or each in self._patterns for each in _EVERYWHERE
        )
        """Whether any event may be changed, however plain it is."""
        self._plain_stays = not self._hidden and not self._patterns

    @property
    def is_off(self) -> bool:
        """Whether everything stays as it is."""
        return not self.rules

    def text(self, family: str, text: str) -> str:
        """*text*, which is of that *family*, as it may leave; the same object where all of it may."""
        if family in self._hidden:
            return MASK
        patterns = self._patterns.get(family)
        secrets = self._secrets and family in WITH_SECRETS
        if not patterns and not (secrets and (len(text) >= PLAIN or not TELLING.isdisjoint(text))):
            return text
        known = self._known.get((family, text))
        if known is not None:
            return known
        hidden = text if len(text) <= LONGEST else text[:LONGEST] + MARK
        if secrets:
            hidden = hide_secrets(hidden)
        for pattern in patterns or ():
            hidden = pattern.sub(MASK, hidden)
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[family, text] = hidden
        return hidden

    def texts(self, family: str, texts: list[str]) -> list[str]:
        """The same of several."""
        if family == "argv" and self._secrets and family not in self._hidden:
            texts = hide_in_arguments(
                [each if len(each) <= LONGEST else each[:LONGEST] + MARK for each in texts]
            )
        return [self.text(family, each) for each in texts]

    def of(self, what: T) -> T:
        """The record *what* as it may leave; the same object where all of it may."""
        if not self.rules:
            return what
        kind = type(what)
        fields = self._fields.get(kind)
        if fields is None:
            fields = self._fields[kind] = self._fields_of(kind)
        values = fields.values_of(what)
        if self._plain_stays:
            # Most have nothing else, and there are many: no call for each of their texts.
            for value in values:
                if value is not None and (
                    type(value) is not str or len(value) >= PLAIN or not _NOT_TELLING(value)
                ):
                    break
            else:
                return what
        changed: dict[str, Any] = {}
        for (name, family), value in zip(fields.named, values, strict=True):
            if value is None:
                continue
            if type(value) is str:
                hidden: Any = self.text(family, value)
            elif type(value) is list:
                hidden = self.texts(family, [str(each) for each in value])
            else:
                continue
            if hidden != value:
                changed[name] = hidden
        return replace(what, **changed) if changed else what

    def _fields_of(self, kind: type[Any]) -> _Fields:
        """The fields of *kind* that may be changed."""
        looked_at = self._hidden.union(self._patterns, WITH_SECRETS if self._secrets else ())
        families = ((each, family_of(each)) for each in kind.__struct_fields__)
        named = tuple((each, family) for each, family in families if family in looked_at and family)
        return _Fields(named, _getter([name for name, _ in named]))
