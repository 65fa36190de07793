"""What was typed, before traitlets reads it, which goes on without an option it does not know."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from ..errors import ConfigurationError

__all__ = ["asks_for_help", "check_words"]

_HELP: Final = frozenset({"-h", "--help", "--help-all", "-V", "--version"})
#: As argparse has it: a value, and no option.
_NEGATIVE: Final = re.compile(r"-\d+|-\d*\.\d+")


def asks_for_help(words: Sequence[str]) -> bool:
    """Return whether something is to be shown, and nothing done."""
    return not _HELP.isdisjoint(_options_of(words))


def check_words(
    words: Sequence[str],
    flags: Collection[str],
    aliases: Mapping[str, str],
    reads: Callable[[str, str], bool],
) -> None:
    """Refuse an option that is not known, and one that is given twice, or with no value.

    Parameters
    ----------
    words : sequence of str
    flags : collection of str
        The options without a value, with their dashes.
    aliases : mapping
        The settings that the other options set, by these with their dashes.
    reads : callable
        Says of the class and the name of a setting whether they may be given, too.

    Raises
    ------
    ConfigurationError
        The values, which may hold a password, are not in its text.
    """
    given: set[str] = set()
    remaining = iter(_options_of(words))
    for word in remaining:
        _check_value("An argument", word)
        if not _is_option(word):
            continue
        option, equals, value = word.partition("=")
        if option in flags:
            if equals:
                raise ConfigurationError(f"Found a value for {option}; expected none.")
            continue
        setting = aliases.get(option) or _setting(option, reads)
        if setting is None:
            near = _nearest(option, [*flags, *aliases])
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
    for word in words[len(_options_of(words)) + 1 :]:
        _check_value("An argument", word)


def _options_of(words: Sequence[str]) -> Sequence[str]:
    return words[: words.index("--")] if "--" in words else words


def _is_option(word: str) -> bool:
    return word[:1] == "-" and word != "-" and not _NEGATIVE.fullmatch(word)


def _setting(option: str, reads: Callable[[str, str], bool]) -> str | None:
    section, _, name = option.removeprefix("--").partition(".")
    return f"{section}.{name}" if option[:2] == "--" and reads(section, name) else None


def _nearest(option: str, known: Collection[str]) -> str:
    # Only what is almost the same: --from is no --force.
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
