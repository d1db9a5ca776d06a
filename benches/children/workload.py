"""workload.py plain|tracked|stacks-plain|stacks-tracked: CPU seconds of a call of a Python workload.

The quickest of the last calls, counted inside the function. "plain" is also what runs under memray.
The stacks modes call a twentieth of the workload, which leaks: that makes the check look closer
after call 16 and capture a stack for each allocation from there on.
"""

import io
import json
import sqlite3
import sys
import time
import xml.etree.ElementTree as ElementTree

FULL_ROUNDS = 400
CALLS = {"plain": 3, "stacks": 40}
LAST_CALLS = 3

times = []
kept = []


def documents(seed):
    people = [
        {"id": seed * 1000 + n, "name": f"person {n}", "tags": [f"tag{n % k}" for k in (3, 5, 7)], "score": n / 7}
        for n in range(150)
    ]
    return json.loads(json.dumps(people, indent=1))


def churn(people):
    groups = {}
    for person in people:
        for tag in person["tags"]:
            groups.setdefault(tag, []).append((person["score"], person["name"]))
    ranked = {tag: sorted(members) for tag, members in groups.items()}
    squares = [[row * column for column in range(40)] for row in range(40)]
    return len(ranked) + sum(map(sum, zip(*squares)))


def text(people):
    out = io.StringIO()
    line = ""
    for person in people:
        line += f"{person['id']:08d} {person['name'].title():<20} {'/'.join(person['tags'])}\n"
    out.write(line)
    return [part.strip().split(" ") for part in out.getvalue().splitlines()]


def tree(people):
    root = ElementTree.Element("people")
    for person in people:
        item = ElementTree.SubElement(root, "person", id=str(person["id"]))
        ElementTree.SubElement(item, "name").text = person["name"]
    again = ElementTree.fromstring(ElementTree.tostring(root))
    return [item.findtext("name") for item in again.iter("person")]


def database(people):
    connection = sqlite3.connect(":memory:")
    connection.execute("create table people (id integer primary key, name text, score real)")
    rows = [(person["id"], person["name"], person["score"]) for person in people]
    connection.executemany("insert into people values (?, ?, ?)", rows)
    found = connection.execute("select name, score from people where score > 5 order by name").fetchall()
    connection.close()
    return found


def workload(rounds):
    start = time.process_time()
    for seed in range(rounds):
        people = documents(seed)
        churn(people)
        text(people)
        tree(people)
        database(people)
    times.append(time.process_time() - start)


def small_leaking_workload():
    workload(FULL_ROUNDS // 20)
    kept.append(bytes(100))


def main():
    mode = sys.argv[1]
    with_stacks = mode.startswith("stacks")
    calls = CALLS["stacks" if with_stacks else "plain"]
    function, arguments = (small_leaking_workload, ()) if with_stacks else (workload, (FULL_ROUNDS,))
    if mode.endswith("tracked"):
        import leaktight

        # At period 8 there is a look after call 16 that is not the last. Garbage is looked for in a call of its own.
        checks = [name for name in leaktight.CHECKS if name != "garbage"]
        report = leaktight.check(function, *arguments, max_calls=calls, period=8, time_budget=600, checks=checks)
        if any(finding.stack for finding in report.findings) != with_stacks:
            sys.exit(f"stacks were {'not ' * with_stacks}captured: {report.verdict}")
    else:
        for _ in range(calls):
            function(*arguments)
    if len(times) != calls:
        sys.exit(f"{len(times)} calls, not {calls}")
    print(f"figure: {min(times[-LAST_CALLS:])!r}")


main()
