#!/usr/bin/python3
"""Adds up test reports: meson's testlog (*.json, cmocka speaking TAP inside) and JUnit (*.xml).

Prints a line a report, what failed, and last "N passed, N failed". Exit 1 when a test failed or
none ran.
"""

import argparse
import json
import pathlib
import re
import sys
import xml.etree.ElementTree as ElementTree

TAP_LINE = re.compile(r"^(not )?ok\b[ \d]*(?:- )?(.*)$", re.MULTILINE)


def read_meson(path):
    """(number passed, names failed): the TAP lines of each program, and programs that died."""
    passed, failed = 0, []
    for line in path.read_text().splitlines():
        program = json.loads(line)
        results = TAP_LINE.findall(program.get("stdout", ""))
        results = [(broke, name) for broke, name in results if "# SKIP" not in name]
        bad = [f"{program['name']}: {name}" for broke, name in results if broke]
        passed += len(results) - len(bad)
        if program["result"] != "OK" and not bad:
            bad = [f"{program['name']}: {program['result']}"]
        failed += bad
    return passed, failed


def read_junit(path):
    passed, failed = 0, []
    for case in ElementTree.parse(path).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            failed.append(f"{case.get('classname')}: {case.get('name')}")
        elif "skipped" not in kinds:
            passed += 1
    return passed, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broken", type=int, default=0, help="suites that left no report")
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    total, bad = 0, arguments.broken
    for path in sorted(arguments.folder.iterdir()):
        passed, failed = (read_meson if path.suffix == ".json" else read_junit)(path)
        print(f"{path.stem}: {passed} passed, {len(failed)} failed")
        for name in failed:
            print(f"  failed: {name}")
        total += passed
        bad += len(failed)
    if arguments.broken:
        print(f"{arguments.broken} suites could not run")
    print(f"{total} passed, {bad} failed")
    return 1 if bad or not total else 0


if __name__ == "__main__":
    sys.exit(main())
