#!/usr/bin/python3
"""Adds up test reports: meson's testlog (*.json, cmocka speaking TAP inside) and JUnit (*.xml).

Prints a line a report, what failed, and last "N passed, N failed", with ", N skipped" when some
were. Exit 1 when a test failed or none ran.
"""

import argparse
import json
import pathlib
import re
import sys
import xml.etree.ElementTree as ElementTree

TAP_LINE = re.compile(r"^(not )?ok\b[ \d]*(?:- )?(.*)$", re.MULTILINE)


def read_meson(path):
    """(number passed, names failed, number skipped): the TAP lines of each program, and programs
    that died."""
    passed, failed, skipped = 0, [], 0
    for line in path.read_text().splitlines():
        program = json.loads(line)
        results = TAP_LINE.findall(program.get("stdout", ""))
        ran = [(broke, name) for broke, name in results if "# SKIP" not in name]
        bad = [f"{program['name']}: {name}" for broke, name in ran if broke]
        passed += len(ran) - len(bad)
        skipped += len(results) - len(ran)
        if program["result"] != "OK" and not bad:
            bad = [f"{program['name']}: {program['result']}"]
        failed += bad
    return passed, failed, skipped


def read_junit(path):
    """As read_meson."""
    passed, failed, skipped = 0, [], 0
    for case in ElementTree.parse(path).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            failed.append(f"{case.get('classname')}: {case.get('name')}")
        elif "skipped" in kinds:
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def sum_line(passed, failed, skipped):
    return f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broken", type=int, default=0, help="suites that left no report")
    parser.add_argument("folder", type=pathlib.Path)
    arguments = parser.parse_args()
    total, bad, left_out = 0, arguments.broken, 0
    for path in sorted(arguments.folder.iterdir()):
        passed, failed, skipped = (read_meson if path.suffix == ".json" else read_junit)(path)
        print(f"{path.stem}: {sum_line(passed, len(failed), skipped)}")
        for name in failed:
            print(f"  failed: {name}")
        total += passed
        bad += len(failed)
        left_out += skipped
    if arguments.broken:
        print(f"{arguments.broken} suites could not run")
    print(sum_line(total, bad, left_out))
    return 1 if bad or not total else 0


if __name__ == "__main__":
    sys.exit(main())
