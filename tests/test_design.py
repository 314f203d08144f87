"""docs/design.md shows the house as it is: picture and table are made from the imports. As a script, it writes both."""
import re
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path

from test_imports import DEPLOY, FACES, MODULES, NUMBER, TABLE, folder, imported

ROOT = Path(__file__).parent.parent
PAGE, PICTURE = ROOT/"docs"/"design.md", ROOT/"docs"/"house.svg"
TABLE_PLACE = re.compile("(?<=<!-- folders -->\n).*?(?=<!-- end -->)", re.S)
WIDTH, HEIGHT, GAP, ROW = 96, 30, 40, 40  # px: of a room, between columns, from room to room


def room(module):
    "What the picture shows of a module: itself at the top, else its folder."
    return folder(module) or module


def needs():
    "Room -> the rooms whose modules it imports."
    rooms = {room(m): set() for m in sorted(NUMBER, key=lambda m: (folder(m), NUMBER[m]))}
    for m in NUMBER: rooms[room(m)] |= {room(other) for other in imported(m)} - {room(m)}
    return rooms


def below(rooms, name):
    "All that a room stands on, through others or directly."
    return rooms[name].union(*(below(rooms, other) for other in rooms[name]))


def picture() -> str:
    "The house as SVG: whatever has a line to its left imports that; what follows from other lines is not drawn."
    rooms = needs()
    lines = {r: sorted(rooms[r] - set().union(*(below(rooms, o) for o in rooms[r]))) for r in rooms}

    @cache
    def column(r): return max((column(o) + 1 for o in rooms[r]), default=0)

    columns = [[r for r in rooms if column(r) == x] for x in range(max(map(column, rooms)) + 1)]
    roads = {}  # (room, what it needs) -> the points between columns that the line passes, from the left
    for r, others in lines.items():
        for o in others:
            roads[r, o] = [o, *((r, o, x) for x in range(column(o) + 1, column(r))), r]
            for *_, x in roads[r, o][1:-1]: columns[x].append((r, o, x))
    before = {stop: [] for names in columns for stop in names}
    for road in roads.values():
        for left, right in pairwise(road): before[right].append(left)
    place, tall = {}, max(map(len, columns))
    for x, names in enumerate(columns):
        names.sort(key=lambda stop: sum(place[o][1] for o in before[stop])/max(1, len(before[stop])))
        for y, stop in enumerate(names):
            place[stop] = 12 + x*(WIDTH + GAP), 12 + ROW*(y + (tall - len(names))/2)
    w, h = 24 + len(columns)*(WIDTH + GAP) - GAP, 24 + HEIGHT + ROW*(tall - 1)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w:g} {h:g}" width="{w:g}" height="{h:g}" '
             'font-family="sans-serif" font-size="13" text-anchor="middle">',
             "<title>What imports what in skysky: each room has lines to the rooms on its left that it needs</title>",
             f'<rect width="{w:g}" height="{h:g}" fill="#fff"/>', '<g fill="none" stroke="#90a4ae" stroke-width="1.4">']
    for road in roads.values():
        path = f"M{place[road[0]][0] + WIDTH:g} {place[road[0]][1] + HEIGHT/2:g}"
        for stop in road[1:]:
            x, y, old = place[stop][0], place[stop][1] + HEIGHT/2, path.rpartition(" ")[2]
            path += f"C{x - GAP/2:g} {old} {x - GAP/2:g} {y:g} {x:g} {y:g}" + f"L{x + WIDTH:g} {y:g}"*(stop != road[-1])
        parts.append(f'<path d="{path}"/>')
    parts.append("</g>")
    for r in rooms:
        x, y = place[r]
        fill = "#e3f2fd" if r in DEPLOY else "#ede7f6" if r in TABLE else "#fff3e0"
        parts += [f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{fill}" '
                  'stroke="#546e7a"/>',
                  f'<text x="{x + WIDTH/2:g}" y="{y + 20:g}" fill="#263238">{escape(r)}{"/"*(r in TABLE)}</text>']
    return "\n".join([*parts, "</svg>", ""])


def said(names):
    "Modules in words: whole folders by their name."
    words = ["the modules of `skysky`"] if {*DEPLOY} <= {*names} else [f"`{m}`" for m in names if m in DEPLOY]
    for package in filter(None, TABLE):
        inner = [m for m in names if folder(m) == package]
        whole = inner and {*inner} == {m for m in NUMBER if folder(m) == package}
        words += [f"`{package}`"] if whole else [f"`{m}`" for m in inner]
    return ", ".join(words)


def table() -> str:
    "The folders: what stands in each, and what it may import."
    rows = ["| folder | modules, in reading order | may import, beside what comes before in the folder |",
            "| --- | --- | --- |"]
    for package, may in TABLE.items():
        names = sorted((m for m in NUMBER if folder(m) == package), key=NUMBER.get)
        name, last = (f"`skysky.{package}`", "") if package else ("`skysky`", "; `cli`: all")
        modules = ", ".join(f"`{m.rpartition('.')[2]}`" for m in names)
        rows.append(f"| {name} | {modules} | {said(may) or 'nothing'}{last} |")
    return "\n".join([*rows, ""])


def test_the_picture_is_what_the_imports_draw():
    assert PICTURE.read_text(encoding="utf-8") == picture(), "run `make export`"


def test_the_table_is_what_the_test_of_imports_holds():
    assert TABLE_PLACE.search(PAGE.read_text(encoding="utf-8"))[0] == table(), "run `make export`"


def test_the_page_names_what_is_there():
    "Files, modules and their names that stand in code on the page."
    places = {f"{package}/" for package in TABLE}
    for name in re.findall(r"`([^`\n]+)`", PAGE.read_text(encoding="utf-8")):
        if "/" in name and " " not in name and name not in places: assert (ROOT/name).exists(), name
        module, _, attr = name.partition(".")
        if module in MODULES and re.fullmatch(r"\w+(\.\w+)?", attr):
            *_, last = attr.split(".")
            assert re.search(rf"\b{last}\b", MODULES[module].read_text(encoding="utf-8")), name
    shown = re.search(r"`from skysky import ([^`]+)`", PAGE.read_text(encoding="utf-8"))[1]
    assert {*shown.split(", ")} <= {*FACES[""]}


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    PAGE.write_text(TABLE_PLACE.sub(lambda _: table(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
