"""Checks what was typed before traitlets reads it: traitlets ignores unknown options."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from ..errors import ConfigurationError

_SHOWING_OPTIONS: Final = frozenset({"-h", "--help", "--help-all", "-V", "--version"})
#: A value, not an option: the expression is argparse's.
_NEGATIVE_NUMBER: Final = re.compile(r"-\d+|-\d*\.\d+")


def asks_for_help(words: Sequence[str]) -> bool:
    """Return whether the words ask for help or the version only."""
    return not _SHOWING_OPTIONS.isdisjoint(_before_double_dash(words))


def check_options(
    words: Sequence[str],
    flags: Collection[str],
    aliases: Mapping[str, str],
    accepts_setting: Callable[[str, str], bool],
) -> None:
    """Refuse an option that is unknown, is given twice or has no value.

    Flags have no value; aliases have one, and name the setting that they set. Both have their
    dashes. The errors repeat no value: it may hold a password.
    """
    given: set[str] = set()
    remaining = iter(_before_double_dash(words))
    for word in remaining:
        _check_value("An argument", word)
        if not _is_option(word):
            continue
        option, equals, value = word.partition("=")
        if option in flags:
            if equals:
                raise ConfigurationError(f"Found a value for {option}; expected none.")
            continue
        setting = aliases.get(option) or _setting(option, accepts_setting)
        if setting is None:
            near = _suggest_option(option, [*flags, *aliases])
            raise ConfigurationError(f"There is no option {option!r} here; expected {near}.")
        if not equals:
            following = next(remaining, None)
            if following is None or _is_option(following):
                raise ConfigurationError(f"Found no value for {option}; expected one after it.")
            value = following
        _check_value(option, value)
        name = setting.rpartition(".")[2]
        if name in given:
            raise ConfigurationError(f"Found {option} twice; expected it once.")
        given.add(name)
    for word in words[len(_before_double_dash(words)) + 1 :]:
        _check_value("An argument", word)


def _before_double_dash(words: Sequence[str]) -> Sequence[str]:
    return words[: words.index("--")] if "--" in words else words


def _is_option(word: str) -> bool:
    return word[:1] == "-" and word != "-" and not _NEGATIVE_NUMBER.fullmatch(word)


def _setting(option: str, accepts_setting: Callable[[str, str], bool]) -> str | None:
    section, _, name = option.removeprefix("--").partition(".")
    return f"{section}.{name}" if option[:2] == "--" and accepts_setting(section, name) else None


def _suggest_option(option: str, known: Collection[str]) -> str:
    # The cutoff is high, so that --force is not suggested for --from.
    near = get_close_matches(option, sorted(known), n=1, cutoff=0.8)
    return near[0] if near else "one that the help lists"


def _check_value(what: str, value: str) -> None:
    if not value:
        raise ConfigurationError(
            f"{what} is empty; expected a value, or that it is left out if it may be."
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{what} is not UTF-8; expected text that is.") from None
