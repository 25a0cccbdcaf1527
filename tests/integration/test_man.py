"""The man pages against the programs: what --help shows, and what the configuration accepts."""

import json
import pathlib
import re
import subprocess

import pytest

import harness

TREE = pathlib.Path(__file__).resolve().parents[2]
PAGES = TREE / "tools" / "man"
PAGE_OF = {"tmkd": "tmkd.8", "tmkctl": "tmkctl.1", "tmkpos": "tmkpos.1"}
WITH_COMMANDS = ["tmkctl", "tmkpos"]
NAMES = [*PAGE_OF.values(), "tmkd.conf.5"]
SECTIONS = ["NAME", "DESCRIPTION", "FILES", "EXAMPLES", "SECURITY", "SEE ALSO", "PATENT"]

# Every command takes these; not every --help lists all of them.
OF_ALL = {"-h", "--help", "--version"}
OPTION = re.compile(r"(?<![\w-])(?:--[a-z][a-z-]*|-[a-zA-Z])(?![\w-])")


def groff(name):
    """(text, complaints): lines so long that nothing is broken at a hyphen."""
    result = subprocess.run(
        ["groff", "-mandoc", "-ww", "-Tascii", "-P-cbou", "-rLL=2000n", str(PAGES / name)],
        capture_output=True,
        text=True,
        timeout=harness.RUN_SECONDS,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stderr


def parts(text, indent):
    """{heading: its text}: a heading is a line that begins at just this column."""
    pieces = re.split(rf"^ {{{indent}}}(?=\S)(.*)$", text, flags=re.MULTILINE)
    headings = [heading.strip() for heading in pieces[1::2]]
    return dict(zip(headings, pieces[2::2]))


def sections(name):
    return parts(groff(name)[0], 0)


def options_in(text):
    return set(OPTION.findall(text))


def tags_in(text):
    """The options that a list of options explains, not those that its sentences mention."""
    tags = [line.split("  ")[0] for line in re.findall(r"^     (-.*)$", text, re.MULTILINE)]
    return options_in(" ".join(tags))


def help_of(programs, program, *words):
    result = harness.run([programs / program, *words, "--help"])
    assert result.returncode == 0 and not result.stderr, result.stderr
    return result.stdout


def commands_of(programs, program):
    """The commands in the overview, with their argument: "terminal import FILE"."""
    lines = help_of(programs, program).split("\n\n")[2].splitlines()
    commands = [re.split(r" {2,}", line.strip())[0] for line in lines]
    assert commands[0] == "init", commands
    return commands


def words_of(command):
    return [word for word in command.split() if not word.isupper()]


def listed_options(help_text):
    """Those under "Options", one a line."""
    return {line.split()[0] for line in help_text.splitlines() if line.startswith("  --")}


def options_of(programs, program):
    """All that its --help and those of its commands show."""
    shown = help_of(programs, program)
    if program in WITH_COMMANDS:
        for command in commands_of(programs, program):
            shown += help_of(programs, program, *words_of(command))
    return options_in(shown) | OF_ALL


@pytest.mark.parametrize("name", NAMES)
def test_page_is_sound(name):
    text, complaints = groff(name)
    assert complaints == ""
    assert [section for section in SECTIONS if section not in parts(text, 0)] == []
    assert "CN103729946A" in parts(text, 0)["PATENT"]


@pytest.mark.parametrize("name", NAMES)
def test_pages_refer_to_pages_that_exist(name):
    found = re.findall(r"\b(tmk[\w.]*)\((\d)\)", sections(name)["SEE ALSO"])
    assert found
    for page, section in found:
        assert (PAGES / f"{page}.{section}").exists(), f"{page}({section})"


@pytest.mark.parametrize("program", PAGE_OF)
def test_options_are_those_of_the_program(programs, program):
    page = sections(PAGE_OF[program])
    del page["EXAMPLES"]  # there the other programs run too
    assert options_in("".join(page.values())) == options_of(programs, program)


@pytest.mark.parametrize("name", NAMES)
def test_examples_use_options_that_exist(programs, name):
    examples = sections(name)["EXAMPLES"]
    for program, rest in re.findall(r"^ {10,}(tmkd|tmkctl|tmkpos) (.*)$", examples, re.MULTILINE):
        assert options_in(rest) <= options_of(programs, program), rest


def test_configuration_names_options_that_exist(programs):
    found = options_in(groff("tmkd.conf.5")[0])
    assert {"-c", "--embedded"} <= found <= options_of(programs, "tmkctl")


@pytest.mark.parametrize("program", PAGE_OF)
def test_options_of_all_are_taken(programs, program):
    for option in OF_ALL:
        result = harness.run([programs / program, option])
        assert result.returncode == 0 and program in result.stdout, option


@pytest.mark.parametrize("program", WITH_COMMANDS)
def test_commands_are_those_of_the_program(programs, program):
    commands = commands_of(programs, program)
    page = parts(sections(PAGE_OF[program])["COMMANDS"], 3)
    suffix = " DIR" if program == "tmkpos" else ""  # its overview says it once for all
    assert list(page) == [command + suffix for command in commands]


@pytest.mark.parametrize("program", WITH_COMMANDS)
def test_options_of_each_command(programs, program):
    page = parts(sections(PAGE_OF[program])["COMMANDS"], 3)
    of_all = listed_options(help_of(programs, program))
    for title, text in page.items():
        shown = listed_options(help_of(programs, program, *words_of(title)))
        assert tags_in(text) == shown - of_all, title


def settings_of_page():
    """{"section|name": default}, a section's name being that of its heading."""
    text = sections("tmkd.conf.5")["SETTINGS"]
    top = re.split(r"^   \S", text, maxsplit=1, flags=re.MULTILINE)[0]
    found = {}
    for section, body in {"": top, **parts(text, 3)}.items():
        for name, value in re.findall(r"^     ([a-z_]+) = (.*)$", body, re.MULTILINE):
            found[f"{section}|{name}".lstrip("|")] = value
    return found


def settings_of_file():
    """Those of conf/tmkd.conf, which says of itself that it holds each with its default."""
    found, section = {}, ""
    for line in (TREE / "conf" / "tmkd.conf").read_text().splitlines():
        line = line.strip()
        if opened := re.fullmatch(r"(\w+) \{", line):
            section = opened[1]
        elif line == "}":
            section = ""
        elif line and not line.startswith("#"):
            name, value = line.split(" = ", 1)
            found[f"{section}|{name}".lstrip("|")] = value
    return found


def settings_of_code():
    """The names in conf.c: a section's settings are in the array that has its name."""
    code = (TREE / "src" / "common" / "conf.c").read_text()
    arrays = re.findall(r"cfg_opt_t (\w+)\[\] = \{(.*?)\n    \};", code, re.DOTALL)
    return {
        name if array == "options" else f"{array}|{name}"
        for array, body in arrays
        for name in re.findall(r'CFG_(?:STR|INT|STR_LIST|INT_CB)\("(\w+)"', body)
    }


def test_settings_are_those_of_the_configuration():
    page = settings_of_page()
    assert len(page) > 20
    assert set(page) == settings_of_code()
    assert page == settings_of_file()


def test_pages_are_installed(programs):
    installed = json.loads((programs / "meson-info" / "intro-installed.json").read_text())
    names = {pathlib.Path(source).name for source in installed if "/man/" in source}
    assert names == set(NAMES) == {path.name for path in PAGES.glob("*.[1-8]")}
