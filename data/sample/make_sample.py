#!/usr/bin/env python3
"""Make the sample that ships beside this script: Craftkit metadata, and PDFs printed with headless Chromium.

    python3 make_sample.py                    everything
    python3 make_sample.py --metadata-only    only the JSON files, without Chromium
    python3 make_sample.py --to DIR           into another folder

Every company, place and person in it is invented. Running it again gives the same metadata; the PDFs are the same
bytes too as long as Chromium and the fonts are the same versions, because the two dates that Chromium writes into a
PDF are set to the render's completion time.

The file reads from top to bottom: time and ids, pictures, the page, one function for each kind of document, the list
of renders, their records, the printing.
"""

import argparse
import base64
import hashlib
import json
import math
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from html import escape
from pathlib import Path
from uuid import UUID

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-pdf-header-footer",
)
FONTS = (
    "Noto Sans",
    "Noto Serif",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "Noto Sans Arabic",
    "Noto Serif Hebrew",
    "Noto Serif Devanagari",
)
API = "https://api.craftkit.dev"
PRINT_TIMEOUT_S = 120

RGB = tuple[int, int, int]


# ---------------------------------------------------------------------------------------------- time, ids and chance


def at(text: str) -> datetime:
    """Read an ISO 8601 time, in UTC when it names no zone."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def pg_time(moment: datetime | None) -> str | None:
    """Write a time as Postgres writes a timestamptz into JSON."""
    return moment.isoformat(timespec="milliseconds") if moment else None


def api_time(moment: datetime | None) -> str | None:
    """Write a time as the Craftkit API does."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else None


def uuid7(moment: datetime, label: str) -> str:
    """Make the same UUIDv7 for the same moment and label every time.

    Source: RFC 9562, section 5.7; the random bits come from the SHA-256 of the label.
    """
    milliseconds = round(moment.timestamp() * 1000)
    noise = int.from_bytes(hashlib.sha256(label.encode()).digest(), "big")
    rand_a, rand_b = noise & 0xFFF, (noise >> 12) & ((1 << 62) - 1)
    return str(UUID(int=milliseconds << 80 | 7 << 76 | rand_a << 64 | 2 << 62 | rand_b))


def roll(seed: str, sides: int) -> int:
    """Return a number from 0 to sides - 1, always the same for the same seed."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") % sides


def long_date(day: date) -> str:
    """Write a date as `2 October 2025`."""
    return f"{day.day} {day:%B %Y}"


def euro(cents: int) -> str:
    """Write an amount as `€ 1,234.50`."""
    return f"{'−' if cents < 0 else ''}€ {abs(cents) / 100:,.2f}"


# ----------------------------------------------------------------------------------------------------------- pictures


def png(width: int, height: int, pixel: Callable[[int, int], RGB]) -> str:
    """Make a PNG, pixel by pixel, and return it as a data: address."""
    rows = b"".join(b"\0" + b"".join(bytes(pixel(x, y)) for x in range(width)) for y in range(height))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    image = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(image).decode()


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """Mix two colours; share 0 is the first, 1 the second."""
    share = min(1.0, max(0.0, share))
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


@dataclass(frozen=True)
class Palette:
    """The colours of a painted landscape."""

    sky_top: RGB
    sky_low: RGB
    sun: RGB
    hills: tuple[RGB, RGB, RGB]
    water: RGB


DUSK = Palette(
    (43, 52, 96), (246, 178, 122), (255, 236, 190), ((139, 98, 120), (94, 70, 104), (52, 46, 78)), (70, 66, 104)
)
MORNING = Palette(
    (120, 178, 190), (238, 236, 214), (255, 252, 232), ((126, 168, 164), (78, 132, 130), (31, 95, 91)), (96, 150, 154)
)


def landscape(palette: Palette, *, width: int = 960, height: int = 520) -> str:
    """Paint hills over a bay, and return the picture as a data: address."""
    shore = int(height * 0.72)
    sun_x, sun_y, sun_r = width * 0.68, height * 0.40, height * 0.11
    waves = ((0.46, 34, 170, 0.4), (0.56, 26, 120, 2.1), (0.66, 16, 84, 4.0))
    ridges = [
        [
            height * base + swing * math.sin(x / period + phase) + swing * 0.4 * math.sin(x / (period * 0.37))
            for x in range(width)
        ]
        for base, swing, period, phase in waves
    ]

    def pixel(x: int, y: int) -> RGB:
        if y >= shore:
            depth = (y - shore) / (height - shore)
            colour = mix(mix(palette.sky_low, palette.water, 0.55), palette.water, depth * 1.4)
            reach = sun_r * (0.5 + depth) * (0.75 + 0.25 * math.sin(y * 0.9))
            return mix(colour, palette.sun, 0.5 * (1 - depth) * min(1.0, max(0.0, (reach - abs(x - sun_x)) / 6)))
        colour = mix(palette.sky_top, palette.sky_low, y / shore * 1.15)
        colour = mix(colour, palette.sun, sun_r - math.hypot(x - sun_x, y - sun_y) + 0.5)
        for ridge, hill in zip(ridges, palette.hills, strict=True):
            colour = mix(colour, hill, y - ridge[x] + 0.5)
        return colour

    return png(width, height, pixel)


def heat_map(seed: str, columns: int, rows: int, *, cell: int = 9) -> str:
    """Paint a made-up table of values (columns by rows) as coloured cells, and return it as a data: address."""
    cold, warm, hot = (236, 240, 245), (126, 148, 188), (90, 42, 94)

    def value(column: int, row: int) -> float:
        tide = 0.5 + 0.5 * math.sin(column * 2 * math.pi / 14.77 + row * 2 * math.pi / 12.42)
        return tide * (0.75 + 0.25 * math.sin(column / 9)) + roll(f"{seed}/{column}/{row}", 100) / 900

    grid = [[value(column, row) for column in range(columns)] for row in range(rows)]

    def pixel(x: int, y: int) -> RGB:
        if x % cell == cell - 1 or y % cell == cell - 1:
            return 255, 255, 255
        level = grid[y // cell][x // cell]
        return mix(cold, warm, level * 2) if level < 0.5 else mix(warm, hot, level * 2 - 1)

    return png(columns * cell, rows * cell, pixel)


def svg(width: float, height: float, body: str, *, css: str = "") -> str:
    """Wrap shapes as an inline SVG picture."""
    return f'<svg class="{css}" viewBox="0 0 {width:g} {height:g}" xmlns="http://www.w3.org/2000/svg">{body}</svg>'


ICONS = {
    "lantern": '<path d="M24 20h16l5 30H19zM26 20a6 8 0 0 1 12 0M16 50h32v5H16zM32 30c-4 5-5 8-5 11a5 5 0 0 0 10 0'
    'c0-3-1-6-5-11z"/>',
    "candle": '<path d="M25 30h14v26H25zM32 30v-5M32 10c-4 5-5 7-5 9a5 5 0 0 0 10 0c0-2-1-4-5-9zM18 56h28"/>',
    "rope": '<path d="M12 22v8c0 4 9 8 20 8s20-4 20-8v-8M12 30v9c0 4 9 8 20 8s20-4 20-8v-9M52 39c4 4 2 10 6 13"/>'
    '<ellipse cx="32" cy="22" rx="20" ry="8"/><ellipse cx="32" cy="22" rx="8" ry="3"/>',
    "crate": '<path d="M10 20h44v32H10zM10 31h44M10 42h44M18 20v32M46 20v32"/>',
    "jar": '<path d="M20 12h24v7H20zM18 26c0-4 3-7 5-7h18c2 0 5 3 5 7v26a4 4 0 0 1-4 4H22a4 4 0 0 1-4-4z'
    'M24 34h16v12H24z"/>',
    "book": '<path d="M32 18c-6-5-14-5-22-3v36c8-2 16-2 22 3 6-5 14-5 22-3V15c-8-2-16-2-22 3zM32 18v36"/>',
    "compass": '<circle cx="32" cy="34" r="20"/><path d="M32 14V7M32 20l5 14-5 14-5-14zM27 34h10"/>',
    "bell": '<path d="M14 46c6-5 5-12 6-19a12 12 0 0 1 24 0c1 7 0 14 6 19zM27 50a5 5 0 0 0 10 0M32 15v-5"/>',
    "wave": '<circle cx="32" cy="32" r="24"/><path d="M10 28c7-8 13-8 20 0s16 8 24 0M9 36c7-8 14-8 21 0s17 8 25 0'
    'M13 44c6-6 11-6 17 0s14 7 21 0"/>',
    "ticket": '<path d="M8 18h48v9a5 5 0 0 0 0 10v9H8v-9a5 5 0 0 0 0-10zM42 18v5M42 28v5M42 38v8"/>'
    '<path d="M17 32h16M25 24v16M19 37c2 4 10 4 12 0"/>',
}


def icon(name: str, *, css: str = "icon") -> str:
    """Draw one of the line icons; it takes the colour of its text."""
    return svg(
        64,
        64,
        f'<g fill="none" stroke="currentColor" stroke-width="2.4" stroke-linejoin="round">{ICONS[name]}</g>',
        css=css,
    )


def barcode(digits: str) -> str:
    """Draw an even number of digits as an Interleaved 2 of 5 bar code."""
    codes = ("nnwwn", "wnnnw", "nwnnw", "wwnnn", "nnwnw", "wnwnn", "nwwnn", "nnnww", "wnnwn", "nwnwn")
    widths = "nnnn"
    for bar, space in zip(digits[::2], digits[1::2], strict=True):
        widths += "".join(pair[0] + pair[1] for pair in zip(codes[int(bar)], codes[int(space)], strict=True))
    widths += "wnn"
    x, shapes = 0.0, ""
    for index, letter in enumerate(widths):
        step = 2.6 if letter == "w" else 1.0
        if index % 2 == 0:
            shapes += f'<rect x="{x:g}" y="0" width="{step:g}" height="24"/>'
        x += step
    label = (
        f'<text x="{x / 2:g}" y="31" font-size="6.5" text-anchor="middle">{" ".join(re.findall("..", digits))}</text>'
    )
    return svg(x, 33, shapes + label, css="barcode")


def chart_frame(top: float, unit: str, body: str, *, labels: Sequence[str]) -> str:
    """Draw grid lines, axis labels and a chart's body; the plot is 440 by 170 at (40, 14)."""
    shapes = ""
    for step in range(5):
        y = 184 - 170 * step / 4
        shapes += f'<line class="grid" x1="40" x2="480" y1="{y:g}" y2="{y:g}"/>'
        shapes += f'<text x="34" y="{y + 3:g}" text-anchor="end">{top * step / 4:g}</text>'
    for index, label in enumerate(labels):
        x = 40 + 440 * (index + 0.5) / len(labels)
        shapes += f'<text x="{x:.1f}" y="198" text-anchor="middle">{escape(label)}</text>'
    return svg(490, 204, shapes + f'<text x="40" y="7">{escape(unit)}</text>' + body, css="chart")


def bar_chart(top: float, unit: str, labels: Sequence[str], series: Sequence[Sequence[float]]) -> str:
    """Draw grouped bars, one group for each label."""
    slot, shapes = 440 / len(labels), ""
    wide = slot * 0.7 / len(series)
    for number, values in enumerate(series):
        for index, value in enumerate(values):
            x, tall = 40 + slot * (index + 0.15) + wide * number, 170 * value / top
            shapes += (
                f'<rect class="s{number}" x="{x:.1f}" y="{184 - tall:.1f}" width="{wide - 2:.1f}" height="{tall:.1f}"/>'
            )
            shapes += (
                f'<text class="v" x="{x + wide / 2 - 1:.1f}" y="{181 - tall:.1f}" text-anchor="middle">{value:g}</text>'
            )
    return chart_frame(top, unit, shapes, labels=labels)


def line_chart(top: float, unit: str, labels: Sequence[str], series: Sequence[Sequence[float]]) -> str:
    """Draw one line for each series, spread evenly over the width."""
    shapes = ""
    for number, values in enumerate(series):
        step = 440 / (len(values) - 1)
        points = " ".join(
            f"{40 + step * index:.1f},{184 - 170 * value / top:.1f}" for index, value in enumerate(values)
        )
        shapes += f'<polyline class="l{number}" points="{points}"/>'
    return chart_frame(top, unit, shapes, labels=labels)


def donut(parts: Sequence[tuple[str, float]]) -> str:
    """Draw counts as a ring with a legend."""
    total, start, shapes = sum(value for _, value in parts), 0.0, ""
    for number, (label, value) in enumerate(parts):
        share = value / total * 100
        shapes += (
            f'<circle class="d{number}" cx="70" cy="70" r="48" fill="none" stroke-width="26" pathLength="100"'
            f' stroke-dasharray="{share - 0.8:.2f} 100" stroke-dashoffset="{-start:.2f}"'
            ' transform="rotate(-90 70 70)"/>'
            f'<rect class="s{number}" x="160" y="{26 + number * 22}" width="11" height="11" rx="2"/>'
            f'<text x="178" y="{35.5 + number * 22:g}">{escape(label)} · {value:g}</text>'
        )
        start += share
    return svg(330, 140, shapes, css="chart ring")


def rosette(petals: int, radius: float, depth: float) -> str:
    """Return the path of a guilloche rosette around (0, 0)."""
    points = []
    for step in range(361):
        angle = math.radians(step)
        r = radius * (1 - depth + depth * math.cos(petals * angle))
        points.append(f"{r * math.cos(angle):.2f} {r * math.sin(angle):.2f}")
    return "M" + "L".join(points) + "Z"


# ----------------------------------------------------------------------------------------------------------- the page

BASE_CSS = """
*{box-sizing:border-box;margin:0;padding:0}
html{-webkit-print-color-adjust:exact;print-color-adjust:exact;color:#1e252b;--soft:#66717c;--line:#d8dee3}
body{font:9.6pt/1.5 var(--font);font-variant-numeric:tabular-nums}
svg{display:block}
h1,h2,h3{line-height:1.2;font-weight:600}
.icon{width:1em;height:1em}
.soft{color:var(--soft)}
.n{text-align:end!important;white-space:nowrap}
.label{font-size:7.4pt;letter-spacing:.04em;color:var(--soft);font-weight:600;margin-bottom:1mm}
.head{display:flex;justify-content:space-between;align-items:flex-start;margin-bottom:9mm}
.brand{display:flex;align-items:center;gap:3mm;color:var(--brand);font-size:14pt;font-weight:700}
.brand .icon{width:13mm;height:13mm}
.brand small{display:block;font-size:7.6pt;font-weight:400;color:var(--soft);line-height:1.4;margin-top:.6mm}
.title{text-align:end}
.title h1{font-size:23pt;color:var(--brand)}
.title p{font-size:10.5pt;color:var(--soft)}
.facts{display:grid;grid-template-columns:1fr 1fr auto;gap:8mm;margin-bottom:8mm}
.facts dl{display:grid;grid-template-columns:auto auto;gap:.7mm 5mm;white-space:nowrap}
.facts dd{text-align:end}
.facts dt{color:var(--soft)}
table{width:100%;border-collapse:collapse}
th{font-size:7.8pt;font-weight:600;color:var(--brand);text-align:start;border-bottom:1.4pt solid var(--brand);
  padding:1.2mm 1.5mm;vertical-align:bottom}
td{padding:1.7mm 1.5mm;border-bottom:.5pt solid var(--line);vertical-align:top}
tr{break-inside:avoid}
td small{display:block;color:var(--soft);font-size:7.8pt;line-height:1.4}
tr.group td{background:#f2f5f6;font-weight:600;color:var(--brand)}
tr.group{break-after:avoid}
.end{display:grid;grid-template-columns:1fr 76mm;gap:10mm;margin-top:6mm;break-inside:avoid}
.sum td{border:0;padding:1mm 1.5mm}
.sum tr.due td{border-top:1.4pt solid var(--brand);font-size:12.5pt;font-weight:700;color:var(--brand);padding-top:2mm}
.note{background:#f2f5f6;border-inline-start:2.4pt solid var(--brand);padding:3.4mm 4mm;font-size:8.6pt}
.thanks{margin-top:9mm;color:var(--soft);break-inside:avoid}
.sign{display:grid;grid-template-columns:1fr 1fr;gap:14mm;margin-top:16mm;break-inside:avoid}
.sign p{border-top:.7pt solid #1e252b;padding-top:1.2mm;font-size:8.2pt;color:var(--soft)}
.sign b{color:#1e252b;display:block;font-size:9.4pt}
.barcode{width:46mm;margin-inline-start:auto;margin-top:2.5mm}
.tick{display:inline-block;width:3.4mm;height:3.4mm;border:.8pt solid var(--soft);border-radius:.5mm}
.test{position:fixed;inset:0;display:grid;place-items:center;z-index:9;pointer-events:none}
.test span{font:800 118pt 'Noto Sans';letter-spacing:.08em;color:#c2182b;opacity:.17;transform:rotate(-32deg)}
"""

LONG_CSS = """
body{font-size:10.2pt;line-height:1.58}
p{margin-bottom:2.6mm;text-align:justify;hyphens:auto;orphans:3;widows:3}
h2{font-size:13pt;color:var(--brand);margin:8mm 0 2.6mm;break-after:avoid}
h3{font-size:10.6pt;margin:5mm 0 1.4mm;break-after:avoid}
.cover{break-after:page}
.break{break-before:page}
h2.break,.break+h2{margin-top:0}
.tight td{padding:1mm 1.5mm}
.part{display:grid;grid-template-columns:11mm 1fr;break-inside:avoid}
.part span{color:var(--soft)}
.toc{list-style:none;columns:1;font-size:10.4pt}
.toc li{border-bottom:.5pt solid var(--line);padding:1.5mm 0}
.toc a{color:inherit;text-decoration:none;display:flex;gap:6mm}
.toc b{color:var(--brand);width:8mm;font-weight:600}
figure{margin:5mm 0 6mm;break-inside:avoid}
figure img{width:100%;display:block}
figcaption{font-size:8.2pt;color:var(--soft);margin-top:1.6mm}
.chart{width:86%;font-size:8.4px}
.chart text{fill:#66717c;font-family:inherit}
.chart .v{font-size:7.2px;fill:#1e252b}
.chart .grid{stroke:#d8dee3;stroke-width:.6}
.ring{width:92mm;font-size:10px}
.s0{fill:var(--brand)}.s1{fill:#c9a227}.s2{fill:#7e94bc}.s3{fill:#b9c1c9}
.d0{stroke:var(--brand)}.d1{stroke:#c9a227}.d2{stroke:#7e94bc}.d3{stroke:#b9c1c9}
.l0,.l1,.l2{fill:none;stroke-width:1.5;stroke:var(--brand)}.l1{stroke:#c9a227}.l2{stroke:#7e94bc}
.tiles{display:grid;grid-template-columns:repeat(4,1fr);gap:4mm;margin:5mm 0}
.tiles div{border-top:2pt solid var(--brand);background:#f5f3f6;padding:3mm}
.tiles b{display:block;font-size:17pt;line-height:1.25;color:var(--brand)}
.tiles span{font-size:8.2pt;color:var(--soft);line-height:1.3;display:block}
td,th{text-align:start;line-height:1.4}
"""


@dataclass(frozen=True)
class Style:
    """What differs from one printed page to the next."""

    title: str
    brand: str
    font: str = "'Noto Sans'"
    footer: str = ""
    lang: str = "en"
    direction: str = "ltr"
    size: str = "A4"
    margin: str = "17mm 18mm 22mm"
    pages: tuple[str, str, str] = ("Page ", " of ", "")
    first_footer: bool = True
    test: bool = False


def page_rule(style: Style) -> str:
    """Write the @page rules: size, margins, footer and page numbers."""
    before, between, after = (json.dumps(part, ensure_ascii=False) for part in style.pages)
    look = f"font:7.6pt {style.font};color:#66717c;vertical-align:top;padding-top:6mm"
    number, text = ("right", "left") if style.direction == "ltr" else ("left", "right")
    rule = f"@page{{size:{style.size};margin:{style.margin};"
    if style.footer:
        rule += f"@bottom-{text}{{content:{json.dumps(style.footer, ensure_ascii=False)};{look};white-space:nowrap}}"
        rule += f"@bottom-{number}{{content:{before} counter(page) {between} counter(pages) {after};{look}}}"
    rule += "}"
    if not style.first_footer:
        rule += "@page:first{@bottom-left{content:none}@bottom-right{content:none}}"
    return rule


def page(style: Style, body: str, *, css: str = "") -> str:
    """Return a whole HTML document."""
    mark = '<div class="test"><span>TEST</span></div>' if style.test else ""
    return (
        f'<!doctype html><html lang="{style.lang}" dir="{style.direction}"'
        f' style="--brand:{style.brand};--font:{escape(style.font)}"><head><meta charset="utf-8">'
        f"<title>{escape(style.title)}</title><style>{BASE_CSS}{css}{page_rule(style)}</style></head>"
        f"<body>{mark}{body}</body></html>"
    )


def row(*cells: str, numbers: Sequence[int] = (), css: str = "", tag: str = "td") -> str:
    """Return a table row of HTML cells; the columns in `numbers` are set at the end edge."""
    inner = "".join(
        f"<{tag}{' class=n' if index in numbers else ''}>{cell}</{tag}>" for index, cell in enumerate(cells)
    )
    return f'<tr class="{css}">{inner}</tr>'


def table(head: Sequence[str], rows: Iterable[str], *, numbers: Sequence[int] = (), css: str = "") -> str:
    """Return a table whose head repeats on every page."""
    top = row(*head, numbers=numbers, tag="th")
    return f'<table class="{css}"><thead>{top}</thead><tbody>{"".join(rows)}</tbody></table>'


def brand_head(mark: str, name: str, address: str, *, title: str, below: str, extra: str = "") -> str:
    """Return the head of a letter or form: brand at the start, title at the end."""
    return (
        f'<div class="head"><div class="brand">{icon(mark)}<div>{name}<small><bdi>{address}</bdi></small></div></div>'
        f'<div class="title"><h1>{title}</h1><p>{below}</p>{extra}</div></div>'
    )


# ----------------------------------------------------------------------------- Lanternfield Goods: orders and invoices

TEAL = "#1f5f5b"
LANTERNFIELD = "14 Lamplighter Row, Port Ellery<br>orders@lanternfield.example.com · VAT XX 000 000 001"
LANTERNFIELD_FOOT = "Lanternfield Goods · 14 Lamplighter Row · Port Ellery"


@dataclass(frozen=True)
class Product:
    """One thing that Lanternfield Goods sells; the price is in cents."""

    sku: str
    picture: str
    name: str
    detail: str
    cents: int


PRODUCTS = tuple(
    Product(*fields)
    for fields in (
        ("LF-1001", "lantern", "Storm lantern, brass", "Glass chimney, folding handle, 28 cm", 6450),
        ("LF-1002", "lantern", "Table lantern, small", "Powder-coated tin, for tea lights, 14 cm", 1890),
        ("LF-1003", "lantern", "Signal lantern, red and green", "Two lenses, hook and stand, 31 cm", 9825),
        ("LF-1104", "candle", "Beeswax pillar candle", "Burns for about 40 hours", 1240),
        ("LF-1105", "candle", "Dinner candles, box of twelve", "Undyed, dripless, 25 cm", 1575),
        ("LF-1106", "candle", "Tea lights, bag of fifty", "In refillable cups", 980),
        ("LF-1207", "rope", "Hemp rope, 25 m", "12 mm, three strands, whipped ends", 3460),
        ("LF-1208", "rope", "Cotton cord, 100 m", "4 mm, on a wooden reel", 2230),
        ("LF-1209", "rope", "Mooring line, 10 m", "16 mm, with a spliced eye", 4175),
        ("LF-1310", "crate", "Slatted crate", "Pine, 40 × 30 × 25 cm, stacks", 2680),
        ("LF-1311", "crate", "Bottle crate, 12 places", "Beech, with leather grips", 3895),
        ("LF-1312", "crate", "Tool chest", "Oak, two trays, brass corners", 12900),
        ("LF-1413", "jar", "Storage jar, 1 litre", "Clear glass with a cork", 845),
        ("LF-1414", "jar", "Storage jar, 3 litres", "Clear glass with a clip lid", 1395),
        ("LF-1415", "jar", "Spice jars, set of six", "With a rack and blank labels", 2150),
        ("LF-1516", "book", "Deck log, 200 pages", "Cloth binding, numbered pages", 1780),
        ("LF-1517", "book", "Pocket notebook", "Waterproof paper, squared, 96 pages", 720),
        ("LF-1518", "book", "Guest book", "Half leather, 150 leaves", 3350),
        ("LF-1619", "compass", "Pocket compass", "In a turned wooden case", 4590),
        ("LF-1620", "compass", "Chart dividers", "Brass with steel points, 17 cm", 2875),
        ("LF-1621", "compass", "Desk barometer", "Aneroid, walnut frame, 12 cm", 8460),
        ("LF-1722", "bell", "Fog bell, 18 cm", "Bronze, with a wall bracket", 11250),
        ("LF-1723", "bell", "Door bell on a spring", "Wrought iron and brass", 3140),
        ("LF-1724", "bell", "Hand bell", "Polished brass, ash handle", 2495),
    )
)


@dataclass(frozen=True)
class Line:
    """One line of an order; the price is in the smallest unit of its currency."""

    sku: str
    name: str
    detail: str
    quantity: int
    price: int
    group: str = ""


def basket(seed: str, count: int, *, groups: Sequence[str] = ()) -> tuple[Line, ...]:
    """Fill an order with products, spread evenly over the named groups."""
    first, lines = roll(seed, len(PRODUCTS)), []
    for index in range(count):
        product = PRODUCTS[(first + index * 7) % len(PRODUCTS)]
        group = groups[index * len(groups) // count] if groups else ""
        quantity = 1 + roll(f"{seed}/{index}", 12)
        lines.append(Line(product.sku, product.name, product.detail, quantity, product.cents, group))
    return tuple(lines)


@dataclass(frozen=True)
class Words:
    """The words and number forms of an invoice in one language."""

    title: str
    bill: str
    ship: str
    day: str
    due: str
    reference: str
    item: str
    quantity: str
    price: str
    amount: str
    subtotal: str
    vat: str
    total: str
    pay: str
    note: str
    thanks: str
    lang: str = "en"
    font: str = "'Noto Sans'"
    direction: str = "ltr"
    pages: tuple[str, str, str] = ("Page ", " of ", "")
    date_form: str = ""
    separators: str = ",."
    decimals: int = 2
    digits: str = "0123456789"
    before: str = ""
    after: str = ""
    days: int = 30

    def number(self, text: str) -> str:
        """Write the digits of a text in this language's digits."""
        return text.translate(str.maketrans("0123456789", self.digits))

    def date(self, day: date) -> str:
        """Write a date."""
        return self.number(self.date_form.format(day)) if self.date_form else long_date(day)

    def money(self, units: int) -> str:
        """Write an amount given in the currency's smallest unit."""
        plain = f"{abs(units) / 10**self.decimals:,.{self.decimals}f}".translate(str.maketrans(",.", self.separators))
        return f"{'−' if units < 0 else ''}{self.before}{self.number(plain)}{self.after}"


ENGLISH = Words(
    "Invoice", "Bill to", "Deliver to", "Invoice date", "Due date", "Your reference", "Item", "Quantity", "Unit price",
    "Amount", "Subtotal", "VAT", "Total due", "Payment",
    "Please pay within 30 days and give the invoice number.<br>IBAN XX00 SAMP LE00 0000 0000 · BIC SAMPLEXX",
    "Thank you for your order. Questions about this invoice? Write to orders@lanternfield.example.com.",
    before="€ ",
)  # fmt: skip
CREDIT = Words(
    "Credit note", "Credit to", "Goods returned by", "Date", "Invoice date", "Our invoice", "Item", "Quantity",
    "Unit price", "Amount", "Subtotal", "VAT", "Total credited", "Your credit",
    "We set this amount off against your next invoice, or pay it back if you ask for that in writing.",
    "We are sorry for the trouble: the crates were damp when they left our store.",
    before="€ ", days=-44,
)  # fmt: skip
GREEK = Words(
    "Τιμολόγιο", "Προς", "Παράδοση σε", "Ημερομηνία", "Εξόφληση έως", "Αναφορά", "Είδος", "Ποσότητα", "Τιμή μονάδας",
    "Ποσό", "Μερικό σύνολο", "ΦΠΑ", "Πληρωτέο ποσό", "Πληρωμή",
    "Παρακαλούμε εξοφλήστε εντός 30 ημερών και αναφέρετε τον αριθμό του τιμολογίου.<br>IBAN XX00 SAMP LE00 0000 0000",
    "Σας ευχαριστούμε για την παραγγελία σας.",
    lang="el", pages=("Σελίδα ", " από ", ""), date_form="{0.day:02}/{0.month:02}/{0.year}", separators=".,",
    after=" €",
)  # fmt: skip
BULGARIAN = Words(
    "Фактура", "Получател", "Доставка до", "Дата на издаване", "Срок за плащане", "Ваш номер", "Артикул", "Количество",
    "Единична цена", "Сума", "Междинна сума", "ДДС", "Общо за плащане", "Плащане",
    "Моля, платете в срок от 30 дни и посочете номера на фактурата.<br>IBAN XX00 SAMP LE00 0000 0000",
    "Благодарим Ви за поръчката.",
    lang="bg", pages=("Страница ", " от ", ""), date_form="{0.day:02}.{0.month:02}.{0.year} г.",
    separators="\u00a0,", after=" €",
)  # fmt: skip
JAPANESE = Words(
    "請求書", "ご請求先", "納品先", "発行日", "お支払期限", "貴社注文番号", "品名", "数量", "単価", "金額", "小計",
    "消費税", "ご請求金額", "お支払いについて",
    "請求書の日付から30日以内にお支払いください。<br>お振込の際は請求書番号をご記入ください。",
    "このたびはご注文いただき、誠にありがとうございます。",
    lang="ja", font="'Noto Sans CJK JP'", pages=("", " / ", " ページ"),
    date_form="{0.year}年{0.month}月{0.day}日", decimals=0, before="¥",
)  # fmt: skip
ARABIC = Words(
    "فاتورة", "إلى", "التسليم إلى", "تاريخ الفاتورة", "تاريخ الاستحقاق", "رقم طلبكم", "الصنف", "الكمية",
    "سعر الوحدة (يورو)", "المبلغ (يورو)", "المجموع الفرعي", "ضريبة القيمة المضافة", "المبلغ المستحق (يورو)", "الدفع",
    "يرجى السداد خلال ٣٠ يومًا مع ذكر رقم الفاتورة.", "شكرًا لطلبكم.",
    lang="ar", font="'Noto Sans Arabic','Noto Sans'", direction="rtl", pages=("صفحة ", " من ", ""),
    date_form="{0.day:02}/{0.month:02}/{0.year}", separators="٬٫", digits="٠١٢٣٤٥٦٧٨٩",
)  # fmt: skip


@dataclass(frozen=True)
class Order:
    """What an invoice or a delivery note is printed from."""

    number: str
    day: date
    customer: tuple[str, ...]
    lines: tuple[Line, ...]
    reference: str
    deliver: tuple[str, ...] = ()
    vat: int = 21
    words: Words = ENGLISH
    test: bool = False

    @property
    def net(self) -> int:
        """The sum of all lines, without VAT."""
        return sum(line.quantity * line.price for line in self.lines)

    def data(self) -> dict[str, object]:
        """Return what the template was fed with, as the render's input_data."""
        return {"number": self.number, "customer": self.customer[0], "lines": len(self.lines), "vat": self.vat}


def address(label: str, lines: Sequence[str]) -> str:
    """Return an address block under its label; the first line is bold."""
    first, *rest = (escape(line) for line in lines)
    return f'<div><p class="label">{label}</p><b>{first}</b><br>{"<br>".join(rest)}</div>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return a list of short facts, names at the start and values at the end."""
    return "<div><dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in pairs) + "</dl></div>"


def with_groups(lines: Sequence[Line], write: Callable[[Line], str], columns: int) -> Iterator[str]:
    """Write the lines as table rows, with a heading row wherever a new group begins."""
    group = ""
    for line in lines:
        if line.group != group:
            group = line.group
            yield f'<tr class="group"><td colspan="{columns}">{escape(group)}</td></tr>'
        yield write(line)


def invoice(order: Order) -> str:
    """Print an invoice or a credit note, in the language of its words."""
    words = order.words
    tax = round(order.net * order.vat / 100)

    def write(line: Line) -> str:
        name = f"{escape(line.name)}<small>{escape(line.detail)} · {line.sku}</small>"
        price, amount = words.money(line.price), words.money(line.quantity * line.price)
        return row(name, words.number(str(line.quantity)), price, amount, numbers=(1, 2, 3))

    lines = with_groups(order.lines, write, 4)
    head = (words.item, words.quantity, words.price, words.amount)
    dates = facts(
        [
            (words.day, words.date(order.day)),
            (words.due, words.date(order.day + timedelta(days=words.days))),
            (words.reference, escape(order.reference)),
        ]
    )
    sums = (
        row(words.subtotal, words.money(order.net), numbers=(1,))
        + row(f"{words.vat} {words.number(str(order.vat))} %", words.money(tax), numbers=(1,))
        + row(words.total, words.money(order.net + tax), numbers=(1,), css="due")
    )
    body = (
        brand_head("lantern", "Lanternfield Goods", LANTERNFIELD, title=words.title, below=order.number)
        + f'<div class="facts">{address(words.bill, order.customer)}'
        + f"{address(words.ship, order.deliver or order.customer)}{dates}</div>"
        + table(head, lines, numbers=(1, 2, 3))
        + f'<div class="end"><div class="note"><p class="label">{words.pay}</p>{words.note}</div>'
        + f'<table class="sum">{sums}</table></div><p class="thanks">{words.thanks}</p>'
    )
    style = Style(
        f"{words.title} {order.number}", TEAL, words.font, LANTERNFIELD_FOOT,
        lang=words.lang, direction=words.direction, pages=words.pages, test=order.test,
    )  # fmt: skip
    return page(style, body)


def delivery_note(order: Order, code: str) -> str:
    """Print a delivery note with a bar code, boxes to tick and places to sign."""

    def write(line: Line) -> str:
        later = line.quantity // 4 if roll(order.number + line.sku, 5) == 0 else 0
        name = f"{escape(line.name)}<small>{escape(line.detail)}</small>"
        counts = (str(line.quantity), str(line.quantity - later), str(later or "–"))
        return row(line.sku, name, *counts, '<span class="tick"></span>', numbers=(2, 3, 4, 5))

    lines = with_groups(order.lines, write, 6)
    parcels = 1 + len(order.lines) // 6
    weight = sum(line.quantity for line in order.lines) * 0.42
    shipped = facts(
        [
            ("Date", long_date(order.day)),
            ("Your reference", escape(order.reference)),
            ("Parcels", str(parcels)),
            ("Weight", f"{weight:.1f} kg"),
        ]
    )
    head = ("Number", "Item", "Ordered", "Delivered", "To follow", "Checked")
    body = (
        brand_head(
            "lantern", "Lanternfield Goods", LANTERNFIELD,
            title="Delivery note", below=order.number, extra=barcode(code),
        )
        + f'<div class="facts">{address("Deliver to", order.deliver or order.customer)}'
        + f"{address('Ordered by', order.customer)}{shipped}</div>"
        + table(head, lines, numbers=(2, 3, 4, 5))
        + '<p class="thanks">Please check the parcels at once and note any damage on this sheet. Items under '
        "“To follow” are sent without further charge as soon as they are in store.</p>"
        + '<div class="sign"><p><b>Received by</b>Name, date, signature</p>'
        "<p><b>Handed over by</b>Driver, time</p></div>"
    )  # fmt: skip
    return page(Style(f"Delivery note {order.number}", TEAL, "'Noto Sans'", LANTERNFIELD_FOOT, test=order.test), body)


def statement(customer: Sequence[str], year: int) -> str:
    """Print a statement of account: every invoice and payment of a year, with the running balance."""
    balance, rows, totals = 42_350, [], [0, 0]
    rows.append(row(long_date(date(year, 1, 1)), "Balance brought forward", "", "", euro(balance), numbers=(2, 3, 4)))
    for month in range(1, 13):
        rows.append(f'<tr class="group"><td colspan="5">{date(year, month, 1):%B %Y}</td></tr>')
        for entry in range(7):
            seed, day = f"statement/{month}/{entry}", date(year, month, 2 + entry * 3 + roll(f"{month}.{entry}", 3))
            paid = entry % 2 == month % 2
            cents = balance - roll(seed, 90) * 100 if paid else 8_000 + roll(seed, 120_000)
            cents = max(cents, 2_500)
            balance += -cents if paid else cents
            totals[paid] += cents
            number = (month - 1) * 40 + entry * 4 + 3
            text = f"Payment received, reference {7100 + number}" if paid else f"Invoice INV-{year}-{number:04d}"
            sides = ("", euro(cents)) if paid else (euro(cents), "")
            rows.append(row(f"{day.day} {day:%b}", text, *sides, euro(balance), numbers=(2, 3, 4)))
    sums = (
        row("Invoiced in the year", euro(totals[0]), numbers=(1,))
        + row("Paid in the year", euro(totals[1]), numbers=(1,))
        + row("Balance", euro(balance), numbers=(1,), css="due")
    )
    period = facts([("From", f"1 January {year}"), ("To", f"31 December {year}"), ("Account", "C-20417")])
    body = (
        brand_head("lantern", "Lanternfield Goods", LANTERNFIELD, title="Statement", below=f"Account year {year}")
        + f'<div class="facts">{address("Account of", customer)}<div></div>{period}</div>'
        + table(("Date", "Entry", "Invoiced", "Paid", "Balance"), rows, numbers=(2, 3, 4))
        + '<div class="end"><div class="note">Please tell us within 30 days if your books show another balance. '
        + f'Invoices that are not yet due are included.</div><table class="sum">{sums}</table></div>'
    )
    return page(Style(f"Statement {year}", TEAL, "'Noto Sans'", LANTERNFIELD_FOOT), body)


CATALOGUE_CSS = """
.front{height:252mm;display:flex;flex-direction:column;break-after:page}
.front img{width:100%;display:block;margin:12mm 0 12mm}
.front h1{font-size:44pt;color:var(--brand);line-height:1.05}
.front p{font-size:12pt;color:var(--soft);max-width:120mm;margin-top:5mm}
.front .brand{margin-top:auto}
section{break-before:page}
section h2{font-size:22pt;color:var(--brand);border-bottom:1.4pt solid var(--brand);padding-bottom:2.5mm}
section>p{margin:3.5mm 0 6mm;color:var(--soft);font-size:10.4pt;max-width:140mm}
.wares{display:grid;gap:6mm}
.ware{display:grid;grid-template-columns:64mm 1fr;gap:9mm;break-inside:avoid;border-bottom:.5pt solid var(--line);
  padding-bottom:6mm}
.plate{background:#eef3f2;color:var(--brand);display:grid;place-items:center;height:60mm}
.plate .icon{width:38mm;height:38mm}
.ware h3{font-size:13pt}
.ware .price{font-size:13pt;color:var(--brand);font-weight:600;margin-top:3mm}
.ware dl{display:grid;grid-template-columns:26mm 1fr;margin-top:3mm;font-size:8.8pt}
.ware dt{color:var(--soft)}
"""
CHAPTERS = {
    "lantern": ("Lanterns", "Made to be carried in weather. Every chimney, wick and hinge can be had as a spare part."),
    "candle": ("Candles", "Poured and dipped in our own shed, without dyes or scent."),
    "rope": ("Rope and cord", "Laid on a walk of ninety paces and whipped by hand."),
    "crate": ("Crates and chests", "From the joiner two doors along, in wood from managed forests."),
    "jar": ("Jars", "Thick glass that may be boiled, and corks that fit."),
    "book": ("Books for writing", "Sewn, so that they lie flat, on paper that takes ink well."),
    "compass": ("Instruments", "Checked one by one before they leave the house."),
    "bell": ("Bells", "Cast in small numbers; no two sound quite alike."),
}


def ware(product: Product) -> str:
    """Show one product of the catalogue."""
    pack = 1 + roll(product.sku, 6)
    return (
        f'<div class="ware"><div class="plate">{icon(product.picture)}</div><div><h3>{product.name}</h3>'
        f"<p>{product.detail}</p><dl><dt>Number</dt><dd>{product.sku}</dd><dt>Packed by</dt><dd>{pack}</dd>"
        f"<dt>From 20 pieces</dt><dd>{euro(product.cents * 92 // 100)}</dd></dl>"
        f'<p class="price">{euro(product.cents)}</p></div></div>'
    )


def catalogue(year: int) -> str:
    """Print the trade catalogue: a cover with a painted picture, chapters with drawings, and a price list."""
    body = (
        f'<div class="front"><img src="{landscape(MORNING)}" alt="A bay in the morning">'
        f"<h1>Trade<br>catalogue {year}</h1>"
        "<p>Lanterns, candles, rope and other useful things, with trade prices and packing units.</p>"
        f'<div class="brand">{icon("lantern")}<div>Lanternfield Goods<small>{LANTERNFIELD}</small></div></div></div>'
    )
    for picture in ("lantern", "candle", "rope", "crate", "compass", "bell"):
        title, lead = CHAPTERS[picture]
        wares = "".join(ware(product) for product in PRODUCTS if product.picture == picture)
        body += f'<section><h2>{title}</h2><p>{lead}</p><div class="wares">{wares}</div></section>'
    prices = (row(product.sku, product.name, product.detail, euro(product.cents), numbers=(3,)) for product in PRODUCTS)
    body += "<section><h2>Price list</h2><p>Prices for one piece, without VAT, from our store in Port Ellery.</p>"
    body += table(("Number", "Item", "Description", "Price"), prices, numbers=(3,)) + "</section>"
    style = Style(f"Trade catalogue {year}", TEAL, "'Noto Sans'", LANTERNFIELD_FOOT, first_footer=False)
    return page(style, body, css=CATALOGUE_CSS)


GREEK_LINES = (
    Line("LF-1001", "Φανάρι θυέλλης, ορειχάλκινο", "Με γυάλινο κάλυμμα και χειρολαβή", 6, 6450),
    Line("LF-1104", "Κερί από μελισσοκέρι", "Καίει περίπου 40 ώρες", 24, 1240),
    Line("LF-1207", "Σχοινί κάνναβης, 25 μ.", "Διάμετρος 12 χιλ.", 3, 3460),
    Line("LF-1413", "Βάζο αποθήκευσης, 1 λίτρο", "Διαφανές γυαλί με φελλό", 40, 845),
    Line("LF-1516", "Ημερολόγιο καταστρώματος", "200 σελίδες, δεμένο με ύφασμα", 10, 1780),
    Line("LF-1619", "Πυξίδα τσέπης", "Σε ξύλινη θήκη", 4, 4590),
    Line("LF-1722", "Καμπάνα ομίχλης, 18 εκ.", "Μπρούντζινη, με στήριγμα τοίχου", 1, 11250),
)
BULGARIAN_LINES = (
    Line("LF-1001", "Ветроустойчив фенер, месинг", "Със стъклен капак и дръжка", 8, 6450),
    Line("LF-1104", "Свещ от пчелен восък", "Гори около 40 часа", 36, 1240),
    Line("LF-1207", "Конопено въже, 25 м", "Диаметър 12 мм", 5, 3460),
    Line("LF-1310", "Дървен сандък", "Бор, 40 × 30 × 25 см", 12, 2680),
    Line("LF-1413", "Буркан за съхранение, 1 л", "Прозрачно стъкло с коркова тапа", 60, 845),
    Line("LF-1516", "Дневник, 200 страници", "Платнена подвързия", 15, 1780),
    Line("LF-1619", "Джобен компас", "В дървена кутия", 6, 4590),
    Line("LF-1722", "Камбана за мъгла, 18 см", "Бронз, със стойка за стена", 2, 11250),
)
JAPANESE_LINES = (
    Line("LF-1001", "真鍮製ランタン", "ガラス製の風よけ、折りたたみ式の持ち手", 5, 9800),
    Line("LF-1104", "蜜蝋キャンドル", "燃焼時間は約40時間", 30, 1900),
    Line("LF-1207", "麻ロープ 25 m", "直径12 mm、三つ打ち", 4, 5200),
    Line("LF-1310", "木箱", "松材、40 × 30 × 25 cm、積み重ね可", 8, 4100),
    Line("LF-1413", "保存びん 1 L", "透明ガラス、コルク栓付き", 48, 1300),
    Line("LF-1516", "航海日誌", "布装、200ページ", 12, 2700),
    Line("LF-1619", "懐中羅針盤", "木製ケース入り", 3, 6900),
)
ARABIC_LINES = (
    Line("LF-1001", "فانوس نحاسي مقاوم للريح", "بغطاء زجاجي ومقبض قابل للطي", 7, 6450),
    Line("LF-1104", "شمعة من شمع النحل", "تدوم نحو ٤٠ ساعة", 48, 1240),
    Line("LF-1207", "حبل قنّب، ٢٥ مترًا", "القطر ١٢ ملم", 6, 3460),
    Line("LF-1310", "صندوق خشبي", "خشب الصنوبر، ٤٠ × ٣٠ × ٢٥ سم", 10, 2680),
    Line("LF-1413", "مرطبان حفظ، لتر واحد", "زجاج شفاف بسدادة من الفلين", 36, 845),
    Line("LF-1516", "دفتر يوميات", "٢٠٠ صفحة، تجليد قماشي", 14, 1780),
    Line("LF-1619", "بوصلة جيب", "في علبة خشبية", 5, 4590),
)


# ----------------------------------------------------------------- Marrowby Institute: contracts, reports, certificates

PLUM = "#5a2a5e"
MARROWBY = "Marrowby Institute of Tides and Weather"
MARROWBY_SMALL = "2 Almanac Court, Dunmarrow<br>registry@marrowby.example.org"
MARROWBY_FOOT = f"{MARROWBY} · 2 Almanac Court · Dunmarrow"
SERIF = "'Noto Serif'"

CLAUSES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Purpose", (
        "The Institute owns measuring instruments for tides, wind, rain and air pressure. The Borrower keeps observing "
        "stations on its own land. This agreement says on what terms the Institute lends its instruments to the "
        "Borrower for those stations.",
        "The agreement is a frame. Each loan is made by a loan slip that both parties sign. A loan slip names the "
        "instruments, the station, the first and the last day of the loan, and the fee.",
        "Where a loan slip and this agreement disagree, this agreement prevails, unless the loan slip names the clause "
        "that it changes.",
    )),
    ("Words used in this agreement", (
        "“Instrument” means each item in Schedule A, with its case, cables, mounts and papers.",
        "“Station” means a place that is listed in Schedule B and that the Borrower has the right to enter and use.",
        "“Reading” means a value that an instrument shows or records, with its time and its place.",
        "“Working day” means a day from Monday to Friday that is not a public holiday in Dunmarrow.",
        "“Season” means a quarter of a calendar year.",
    )),
    ("Loan and return", (
        "The Institute hands the instruments over at its store, or sends them at the Borrower's cost. The risk passes "
        "to the Borrower when the Borrower, or the carrier that it chose, takes them over.",
        "Both parties check the instruments at the handover and write down their condition. A defect that could not be "
        "seen then is to be reported within ten working days.",
        "The Borrower returns the instruments on the last day of the loan, clean, dry and in their cases. An "
        "instrument that is late is charged at the daily rate in Schedule C until it is back.",
        "The Institute may call an instrument back early if it needs it for a warning service. It gives five working "
        "days' notice, offers a like instrument if it has one, and waives the fee for the rest of the season.",
    )),
    ("Setting up", (
        "The Borrower sets the instruments up as Schedule D says. It may ask the Institute for help, which is charged "
        "by the hour.",
        "A tide gauge is levelled against at least two bench marks. The levelling is repeated after every storm with "
        "wind of force ten or more, and in any case once a year.",
        "The Borrower does not open a sealed instrument. If a seal is found broken, the Borrower tells the Institute "
        "on the same day and does not use the readings since the last check.",
    )),
    ("Care and repair", (
        "The Borrower looks at each instrument once a week, wipes it clean, and enters the visit in the station log.",
        "Wear from ordinary use is the Institute's affair. Any other damage is repaired by the Institute, or by a "
        "workshop that it has approved in writing, at the Borrower's cost.",
        "If a repair would cost more than the value in Schedule A, the Borrower pays that value instead, less one "
        "tenth for each full year since the instrument was bought.",
        "The Borrower keeps no spare parts of its own making in an instrument.",
    )),
    ("Calibration", (
        "The Institute calibrates each instrument before a loan and hands over the certificate. A certificate is good "
        "for twelve months.",
        "When a certificate has run out, the readings taken after that day are marked as provisional until the "
        "instrument has been calibrated again.",
        "The calibration after the loan decides whether readings are corrected. The Institute sends the corrections "
        "within thirty working days after the return.",
    )),
    ("Readings", (
        "The readings belong to both parties. Each may use and publish them without asking the other, and names the "
        "other as their source.",
        "The Borrower sends the readings of a month by the tenth day of the next, in the form that Schedule D gives.",
        "Readings that a warning service needs are sent at once. The Borrower lets the Institute take them from the "
        "station directly where a line is at hand.",
        "Neither party changes a reading. A doubtful one is marked, with the reason, and stays in the record.",
    )),
    ("Fees and payment", (
        "The Borrower pays the fee in Schedule C for each instrument and season. A season that has begun is paid in "
        "full.",
        "The Institute sends an invoice on the first working day of the season. It is due within thirty days.",
        "The fees follow the price index of the region. They are adjusted once a year, on the first of January, and by "
        "no more than four per cent.",
        "There is no fee for an instrument that is with the Institute for repair for more than ten working days, "
        "counted from the day on which it arrived.",
    )),
    ("Insurance", (
        "The Borrower insures the instruments against fire, storm, flood and theft for the values in Schedule A, and "
        "shows the policy when it is asked to.",
        "Payments by the insurer go to the Institute up to the value of the instrument that was lost or damaged.",
        "A station within reach of the sea at spring tide is insured against breakers as well.",
    )),
    ("Liability", (
        "The Institute lends the instruments with care, yet it does not promise that they never fail. It is not liable "
        "for forecasts that others make from the readings.",
        "Each party is liable without limit for damage that it causes on purpose or through gross negligence, and for "
        "injury to persons.",
        "In all other cases liability is limited, for each year, to twice the fees of that year.",
    )),
    ("Access", (
        "The Institute's staff may visit a station on working days between eight and six o'clock. They give two "
        "working days' notice, except after a storm.",
        "The Borrower tells them of dangers at the station, and lends them a key, a life jacket and a lamp.",
        "Visitors are entered in the station log.",
    )),
    ("Third parties", (
        "The Borrower does not lend, let or pledge the instruments. If somebody seizes them, the Borrower tells the "
        "Institute on the same day and points out who the owner is.",
        "The Borrower may let a contractor look after a station. It remains answerable for what the contractor does.",
    )),
    ("Confidence", (
        "Each party keeps the other's plans, prices and access codes to itself during the agreement and for three "
        "years after its end.",
        "Readings are not confidential, and neither is anything that a law or a court demands to be shown.",
    )),
    ("Term and end", (
        "The agreement begins on the day of the last signature and runs for three years. It then goes on from year to "
        "year, unless a party ends it in writing three months before.",
        "Either party may end it at once for a serious reason: above all if fees are two seasons in arrears, if seals "
        "are broken more than once, or if a station is given up.",
        "Loans that run when the agreement ends are finished on its terms, at the latest by the end of the season.",
    )),
    ("Changes", (
        "Changes and additions are made in writing, signed by both parties, and numbered in order. That holds for this "
        "clause too.",
        "If one clause turns out to be void, the others stand. The parties then agree on a clause that comes closest "
        "to what they meant.",
    )),
    ("Disputes", (
        "The parties first try to settle a dispute by talking. If that has failed after six weeks, each may call on "
        "the arbitrator whom the Harbour Board of Dunmarrow names.",
        "The arbitrator hears both sides, may visit the station, and decides within three months. The decision binds "
        "the parties. Each bears its own costs, and half of the arbitrator's.",
    )),
)  # fmt: skip

CARE = (
    ("Tide gauges", "Fix the gauge to a wall or pile that does not move. Keep the stilling well free of weed. Note the "
     "zero of the gauge against both bench marks, to the millimetre, with the date and the names of the observers."),
    ("Wind vanes and cup anemometers", "Set them up ten metres above open ground, away from trees and roofs by ten "
     "times their height. Turn the vane to true north, not to the needle. Oil the bearing once a season."),
    ("Rain gauges", "Level the rim one metre above short grass. Empty the gauge at nine o'clock each morning, also "
     "when it looks dry. In frost, melt what is in it with a measured amount of warm water."),
    ("Barometers", "Hang them in a room without heating or sun. Tap the glass gently before each reading. Write down "
     "the temperature as well, and do not correct for height: the Institute does that."),
    ("Thermometers", "Keep them in a louvred box painted white, with the door to the north, at two metres. Read the "
     "lowest value first and shake the index back when all values are in the log."),
    ("Sending readings", "One table for each station and month: day, hour, instrument, value, unit, mark. Times are in "
     "universal time. A missing value stays empty; a zero is a value. Doubtful values have a question mark in the last "
     "column, and a reason below the table."),
)  # fmt: skip


def parts(number: int, texts: Sequence[str]) -> str:
    """Write the numbered paragraphs of a clause."""
    return "".join(
        f'<div class="part"><span>{number}.{index}</span><p>{escape(text)}</p></div>'
        for index, text in enumerate(texts, 1)
    )


def cover(kind: str, title: str, lines: Sequence[str], *, picture: str = "") -> str:
    """Return a cover page with the institute's head."""
    image = f'<figure><img src="{picture}" alt="The bay of Dunmarrow, painted"></figure>' if picture else ""
    return (
        f'<div class="cover"><div class="head"><div class="brand">{icon("wave")}<div>Marrowby Institute'
        f"<small>{MARROWBY_SMALL}</small></div></div></div>{image}"
        f'<p class="kind">{kind}</p><h1 class="big">{title}</h1>'
        + "".join(f'<p class="line">{line}</p>' for line in lines)
        + "</div>"
    )


COVER_CSS = """
.cover{min-height:225mm}
.cover figure{margin:4mm 0 14mm}
.kind{margin-top:26mm;color:var(--soft);font-size:13pt}
figure+.kind{margin-top:0}
.big{font-size:33pt;color:var(--brand);margin:2mm 0 10mm;line-height:1.12;max-width:150mm}
.line{font-size:11.5pt;text-align:start;max-width:140mm}
"""
INSTRUMENT_HEAD = ("No.", "Instrument", "Serial number", "Bought", "Condition", "Value")
BORROWER = ("Saltmere Observers' Guild", "Old Rope Walk 9", "Saltmere")


def signatures(place: str, other: str) -> str:
    """Return places to sign for the institute and the other party."""
    return (
        f'<div class="sign"><p><b>For the Institute</b>Isolde Fennimark, director<br>{place}, date</p>'
        f"<p><b>For the Borrower</b>{other}<br>Saltmere, date</p></div>"
    )


def instruments(count: int) -> Iterator[str]:
    """List made-up instruments as the rows of Schedule A."""
    kinds = (
        ("Float tide gauge", "TG", 184_000), ("Pressure tide gauge", "TP", 142_500), ("Cup anemometer", "WA", 38_900),
        ("Wind vane", "WV", 24_500), ("Rain gauge", "RG", 11_800), ("Station barometer", "SB", 67_000),
        ("Maximum and minimum thermometer", "TM", 8_450), ("Levelling staff", "LS", 15_200),
    )  # fmt: skip
    for index in range(count):
        name, code, cents = kinds[index % len(kinds)]
        serial = f"{code}-{1200 + index * 17 + roll(f'serial/{index}', 9)}"
        year, value = 2012 + roll(serial, 13), cents + roll(f"{serial}/value", 40) * 250
        state = ("new", "good", "good", "used, sound", "good")[roll(f"{serial}/state", 5)]
        yield row(str(index + 1), name, serial, str(year), state, euro(value), numbers=(0, 3, 5))


def agreement(day: date) -> str:
    """Print the long contract: cover, contents, clauses, four schedules, signatures."""
    schedules = ("Instruments", "Stations", "Fees", "Setting up and care")
    contents = "".join(
        f'<li><a href="#c{number}"><b>{number}</b>{title}</a></li>' for number, (title, _) in enumerate(CLAUSES, 1)
    ) + "".join(
        f'<li><a href="#s{letter}"><b>{letter}</b>Schedule {letter}: {title}</a></li>'
        for letter, title in zip("ABCD", schedules, strict=True)
    )
    clauses = "".join(
        f'<h2 id="c{number}">{number}. {title}</h2>{parts(number, texts)}'
        for number, (title, texts) in enumerate(CLAUSES, 1)
    )
    stations = (
        ("Lantern Point", "Pier head, 3 m above the sea wall", "Tide, wind, rain"),
        ("Saltmere Quay", "Roof of the harbour store", "Tide, wind, air pressure"),
        ("North Skerry", "Rock with a beacon, by boat only", "Tide, wind"),
        ("Wexley Sands", "Meadow behind the dyke, fenced", "Rain, temperature"),
        ("Cinder Hill", "Old signal house, upper floor", "Wind, air pressure, temperature"),
    )
    fees = (
        ("Tide gauge, either kind", "€ 96.00", "€ 2.10"), ("Cup anemometer", "€ 31.50", "€ 0.70"),
        ("Wind vane", "€ 22.00", "€ 0.50"), ("Rain gauge", "€ 12.00", "€ 0.30"), ("Barometer", "€ 44.00", "€ 1.00"),
        ("Thermometer", "€ 9.50", "€ 0.25"), ("Levelling staff", "€ 14.00", "€ 0.35"),
        ("Help with setting up, one hour", "€ 58.00", "–"), ("Calibration out of turn", "€ 120.00", "–"),
    )  # fmt: skip
    body = (
        cover(
            "Framework agreement", "Loan of measuring instruments",
            (
                f"between the {MARROWBY}, 2 Almanac Court, Dunmarrow (“the Institute”)",
                f"and the {', '.join(BORROWER)} (“the Borrower”)", f"Number RA-2025-07 · {long_date(day)}",
            ),
        )
        + f'<h2 style="margin-top:0">Contents</h2><ul class="toc">{contents}</ul><div class="break"></div>{clauses}'
        + '<h2 class="break" id="sA">Schedule A: Instruments</h2><p>Values are those of the day of the agreement.</p>'
        + table(INSTRUMENT_HEAD, instruments(52), numbers=(0, 3, 5))
        + '<h2 class="break" id="sB">Schedule B: Stations</h2>'
        + table(("Station", "Place", "Observes"), (row(*station) for station in stations))
        + '<h2 id="sC">Schedule C: Fees</h2><p>All fees are without VAT.</p>'
        + table(("Item", "A season", "A day of delay"), (row(*fee, numbers=(1, 2)) for fee in fees), numbers=(1, 2))
        + '<h2 class="break" id="sD">Schedule D: Setting up and care</h2>'
        + "".join(f"<h3>{title}</h3><p>{text}</p>" for title, text in CARE)
        + "<h2>Signatures</h2><p>The parties have read the agreement and its four schedules, and agree to them.</p>"
        + signatures("Dunmarrow", "Caspar Brindlecott, warden of the guild")
    )  # fmt: skip
    style = Style(
        "Framework agreement RA-2025-07", PLUM, SERIF, f"{MARROWBY_FOOT} · RA-2025-07", margin="20mm 24mm 24mm",
        first_footer=False,
    )  # fmt: skip
    return page(style, body, css=LONG_CSS + COVER_CSS)


def amendment(day: date) -> str:
    """Print a short addition to the long contract."""
    changes = (
        ("More instruments", (
            "Schedule A is extended by the eighteen instruments in the table below. They are lent for the station at "
            "Cinder Hill from the first day of the next season.",
            "The values in the table count for clause 5.3 and for the insurance under clause 9.",
        )),
        ("Sending of readings", (
            "In place of clause 7.2: the Borrower sends the readings of a week by the following Wednesday.",
            "Readings that were sent late twice in a season may be fetched by the Institute's own staff. The Borrower "
            "pays for the way at the hourly rate in Schedule C.",
        )),
        ("Storm visits", (
            "In addition to clause 11: after a storm with wind of force ten or more, the Borrower visits each station "
            "within two days, as far as that is safe, and reports what it found.",
        )),
        ("The rest", ("All else in the agreement stays as it is. This addition begins on the day when it is signed.",)),
    )  # fmt: skip
    clauses = "".join(
        f"<h2>{number}. {title}</h2>{parts(number, texts)}" for number, (title, texts) in enumerate(changes, 1)
    )
    body = (
        brand_head("wave", "Marrowby Institute", MARROWBY_SMALL, title="Addition 1", below="to agreement RA-2025-07")
        + f"<p>The {MARROWBY} and the {', '.join(BORROWER)} add to their framework agreement RA-2025-07 of 12 November "
        f"2025 what follows. Dunmarrow, {long_date(day)}.</p>{clauses}"
        + '<h2 class="break">Instruments added</h2>' + table(INSTRUMENT_HEAD, instruments(18), numbers=(0, 3, 5))
        + signatures("Dunmarrow", "Caspar Brindlecott, warden of the guild")
    )  # fmt: skip
    style = Style("Addition 1 to RA-2025-07", PLUM, SERIF, f"{MARROWBY_FOOT} · RA-2025-07/1", margin="20mm 24mm 24mm")
    return page(style, body, css=LONG_CSS)


STATIONS = ("Lantern Point", "Saltmere Quay", "Dunmarrow Bar", "North Skerry", "Wexley Sands")


@dataclass(frozen=True)
class Quarter:
    """What a quarterly report is printed from."""

    name: str
    months: tuple[str, str, str]
    first_day: date
    days: int
    rain: tuple[float, float, float]
    rain_mean: tuple[float, float, float]
    palette: Palette
    summary: str
    notices: tuple[int, int, int, int]
    events: tuple[tuple[str, str], ...]
    outlook: str

    def data(self) -> dict[str, object]:
        """Return what the template was fed with, as the render's input_data."""
        return {"quarter": self.name, "stations": list(STATIONS), "days": self.days}

    def tide(self, station: int) -> list[float]:
        """Return a made-up highest tide for each day, in metres."""
        phase = station * 0.9
        return [
            4.1 + 0.35 * station + 0.9 * math.sin(day * 2 * math.pi / 14.77 + phase)
            + 0.25 * math.sin(day / 11) + roll(f"{self.name}/{station}/{day}", 100) / 220
            for day in range(self.days)
        ]  # fmt: skip


Q3 = Quarter(
    "Third quarter 2025", ("July", "August", "September"), date(2025, 7, 1), 92, (61.5, 48, 92.5), (70, 74, 81), DUSK,
    "The quarter was dry until late August and wet from then on. All five stations worked throughout, apart "
    "from three days at North Skerry, where a breaker bent the vane. The highest tides came with the new moon of "
    "September, eleven centimetres below the mark of last year.",
    (2, 2, 1, 1),
    (
        ("9 July", "Longest calm of the year: 31 hours without wind at Wexley Sands."),
        ("22 August", "First rain after 19 dry days; 27 mm in four hours at Saltmere Quay."),
        ("8 September", "Breaker at North Skerry; vane and mast replaced on 11 September."),
        ("23 September", "Highest tide of the quarter at all stations within forty minutes."),
    ),
    "The last quarter brings the autumn storms. Both spare gauges are calibrated and packed. The levelling of the "
    "bench marks at Lantern Point is repeated in October, because the sea wall there was mended in summer.",
)  # fmt: skip
Q4 = Quarter(
    "Fourth quarter 2025", ("October", "November", "December"), date(2025, 10, 1), 92, (104, 131.5, 88), (96, 108, 101),
    MORNING,
    "Three storms passed in the quarter, the strongest on 17 November. The warning service sent out nine notices, all "
    "of them in time. No instrument was lost. The new levelling at Lantern Point shows that the mended sea wall has "
    "settled by four millimetres; the readings since July have been corrected.",
    (4, 2, 1, 2),
    (
        ("12 October", "Bench marks at Lantern Point levelled; the wall has settled by 4 mm."),
        ("17 November", "Storm of force eleven. Gusts above 30 m/s at all stations."),
        ("18 November", "Highest tide since the records began at Dunmarrow Bar."),
        ("24 December", "Fog for 52 hours; the bell at the pier was rung by hand."),
    ),
    "In the new year the station at Cinder Hill joins the network. Its instruments come from the loan store. The "
    "record of all readings since 1998 is to be printed and bound, one volume for each station.",
)  # fmt: skip


def station_table(quarter: Quarter, station: int) -> str:
    """Return the table of one station, a row for each week."""
    tide, rows = quarter.tide(station), []
    for week in range(quarter.days // 7):
        seed, values = f"{quarter.name}/{station}/week{week}", tide[week * 7 : week * 7 + 7]
        wind, gust = 5 + roll(seed, 60) / 10, 14 + roll(seed + "gust", 190) / 10
        rain, pressure = roll(seed + "rain", 2000) / 1000 * sum(quarter.rain) / 13, 991 + roll(seed + "air", 360) / 10
        start = quarter.first_day + timedelta(days=week * 7)
        cells = (
            f"{max(values):.2f}",
            f"{min(values) - 2.9:.2f}",
            f"{wind:.1f}",
            f"{gust:.1f}",
            f"{rain:.1f}",
            f"{pressure:.1f}",
        )
        rows.append(row(f"{start.day} {start:%B}", *cells, numbers=range(1, 7)))
    head = ("Week from", "High tide, m", "Low tide, m", "Wind, m/s", "Gust, m/s", "Rain, mm", "Air pressure, hPa")
    return f"<h3>{STATIONS[station]}</h3>" + table(head, rows, numbers=range(1, 7))


def report(quarter: Quarter) -> str:
    """Print a quarterly report: a painted cover, charts, a coloured map of values, tables."""
    tides = [quarter.tide(station) for station in range(len(STATIONS))]
    causes = ("Wind", "High tide", "Fog", "Heavy rain")
    share = [100 - roll(f"{quarter.name}/share/{station}", 40) / 10 for station in range(len(STATIONS))]
    rain, mean = sum(quarter.rain), sum(quarter.rain_mean)
    tiles = (
        (f"{max(map(max, tides)):.2f} m", "highest tide"), (f"{rain:g} mm", f"rain; the mean is {mean:g} mm"),
        (f"{sum(share) / 5:.1f} %", "of readings complete"), (str(sum(quarter.notices)), "notices sent"),
    )  # fmt: skip
    body = (
        cover(
            "Report on the network", quarter.name, (MARROWBY, "Five stations, all readings checked"),
            picture=landscape(quarter.palette),
        )
        + f'<h2 style="margin-top:0">Summary</h2><p>{quarter.summary}</p>'
        + '<div class="tiles">'
        + "".join(f"<div><b>{value}</b><span>{label}</span></div>" for value, label in tiles) + "</div>"
        + "<h2>Rain</h2><p>The chart shows the rain of each month as the mean of all stations, beside the mean of the "
        "years 1998 to 2024. One wet or dry week can move a month far away from that mean.</p>"
        + f"<figure>{bar_chart(160, 'mm', quarter.months, (quarter.rain, quarter.rain_mean))}"
        + "<figcaption>Figure 1. Rain in this quarter (dark) and on average (gold).</figcaption></figure>"
        + f'<h2>Notices</h2><p>Notices went to harbour masters, the ferry, and the coast watch, by their cause:</p>'
        f"<figure>{donut(list(zip(causes, quarter.notices, strict=True)))}"
        "<figcaption>Figure 2. Causes of the notices.</figcaption></figure>"
        + '<h2 class="break">Tides</h2><p>Spring and neap tides follow each other in a little under fifteen days. '
        "The lines show the highest water of each day above the zero of the chart, for three of the five stations.</p>"
        + f"<figure>{line_chart(8, 'm', quarter.months, tides[::2])}"
        + "<figcaption>Figure 3. Highest tide of the day at Lantern Point (dark), Dunmarrow Bar (gold) and Wexley "
        "Sands (blue).</figcaption></figure>"
        + "<p>The next figure shows every hour of the quarter at Lantern Point. The slanting bands are the tides, "
        "which come about fifty minutes later each day.</p>"
        + f'<figure><img src="{heat_map(quarter.name, quarter.days, 24)}" alt="Water level by day and hour">'
        + "<figcaption>Figure 4. Water level at Lantern Point: days from left to right, hours from top to bottom; "
        "dark is high.</figcaption></figure>"
        + "<h2>Events</h2>"
        + table(("Day", "What happened"), (row(f"<b>{day}</b>", text) for day, text in quarter.events))
        + f'<h2>Outlook</h2><p>{quarter.outlook}</p>'
        + '<h2 class="break">Readings by station</h2><p>Tides are above the zero of the chart. Wind is a mean.</p>'
        + "".join(station_table(quarter, station) for station in range(len(STATIONS)))
    )  # fmt: skip
    style = Style(
        f"Report, {quarter.name.lower()}", PLUM, SERIF, f"{MARROWBY_FOOT} · {quarter.name}", margin="18mm 20mm 23mm",
        first_footer=False,
    )  # fmt: skip
    return page(style, body, css=LONG_CSS + COVER_CSS)


def chinese_summary() -> str:
    """Print a short report in Chinese."""
    names = ("灯塔角", "盐湖码头", "邓马罗沙洲", "北礁", "韦克斯利沙滩")
    rows = [
        row(name, f"{max(tide):.2f}", f"{min(tide) - 2.9:.2f}", f"{sum(tide) / len(tide):.2f}", numbers=(1, 2, 3))
        for name, tide in zip(names, map(Q4.tide, range(5)), strict=True)
    ]
    events = (
        ("10月12日", "完成灯塔角水准点复测，海堤沉降四毫米，七月以来的读数已作修正。"),
        ("11月17日", "十一级风暴过境，各站阵风均超过每秒三十米，仪器无一损失。"),
        ("11月18日", "邓马罗沙洲出现有记录以来的最高潮位。"),
        ("12月24日", "大雾持续五十二小时，码头雾钟改由人工敲响。"),
    )
    body = (
        brand_head(
            "wave", "马罗比潮汐与气象研究所", "邓马罗市历书院2号（虚构机构）",
            title="季度观测报告", below="2025年第四季度 · 摘要",
        )
        + "<h2>一、概述</h2><p>本季度共有三次风暴过境，其中以十一月十七日最为强烈。预警服务先后发出九次通知，全部"
        "及时送达港务、渡轮和海岸值守人员。五个观测站运行正常，没有仪器损失。灯塔角的复测表明，修缮后的海堤沉降了四毫米，七月以来的全部读数已据此修正。</p>"
        + "<p>十月和十一月降水偏多，十二月略低于多年平均值。全季降水总量为三百二十三点五毫米，比多年平均值高出约"
        "百分之六。下图比较了各月降水量与一九九八年至二〇二四年的平均值。</p>"
        + f"<figure>{bar_chart(160, '毫米', ('十月', '十一月', '十二月'), (Q4.rain, Q4.rain_mean))}"
        + "<figcaption>图一　本季度各月降水量（深色）与多年平均值（金色）</figcaption></figure>"
        + "<h2>二、各站读数</h2><p>潮位以海图零点为准，单位为米。</p>"
        + table(("观测站", "最高潮位", "最低潮位", "日最高潮位平均值"), rows, numbers=(1, 2, 3))
        + "<h2>三、大事记</h2>" + table(("日期", "事件"), (row(f"<b>{day}</b>", text) for day, text in events))
        + f"<h2>四、潮位变化</h2><figure>{line_chart(8, '米', ('十月', '十一月', '十二月'), [Q4.tide(0), Q4.tide(4)])}"
        + "<figcaption>图二　灯塔角（深色）与韦克斯利沙滩（金色）每日最高潮位</figcaption></figure>"
        + "<h2>五、展望</h2><p>新的一年里，煤渣山观测站将加入观测网，所需仪器由借用库房提供。一九九八年以来的"
        "全部读数将整理付印，每站装订一册，供公众查阅。下一份报告预计于四月发布。</p>"
    )  # fmt: skip
    style = Style(
        "2025年第四季度观测报告", PLUM, "'Noto Sans','WenQuanYi Zen Hei'", "马罗比潮汐与气象研究所 · 2025年第四季度",
        lang="zh-Hans", margin="18mm 20mm 23mm", pages=("第 ", " 页，共 ", " 页"),
    )  # fmt: skip
    return page(style, body, css=LONG_CSS)


@dataclass(frozen=True)
class Award:
    """What a certificate is printed from; `after` is the sentence that follows the name."""

    title: str
    before: str
    name: str
    after: str
    course: str
    issued: str
    number: str
    signers: tuple[str, str]
    issuer: str = MARROWBY
    lang: str = "en"
    font: str = SERIF
    direction: str = "ltr"
    test: bool = False

    def data(self) -> dict[str, object]:
        """Return what the template was fed with, as the render's input_data."""
        return {"number": self.number, "name": self.name, "course": self.course, "language": self.lang}


CERTIFICATE_CSS = """
body{width:297mm;height:209mm;overflow:hidden;position:relative;text-align:center}
.ground{position:absolute;inset:0}
.ground svg{width:297mm;height:209mm}
.words{position:absolute;inset:24mm 40mm 20mm;display:flex;flex-direction:column;align-items:center}
.words .icon{width:17mm;height:17mm;color:var(--brand)}
.words h1{font-size:34pt;color:var(--brand);margin:4mm 0 5mm;line-height:1.3}
.words p{font-size:13pt;color:var(--soft)}
.words .who{font-size:30pt;color:#1e252b;margin:2mm 0;line-height:1.4;border-bottom:.6pt solid #c9a227;min-width:150mm}
.words .course{font-size:18pt;color:#1e252b;font-weight:600;margin:2mm 0 4mm}
.words .sign{width:100%;margin-top:auto;gap:70mm}
.words .sign p{font-size:9.4pt}
.small{font-size:8.6pt!important;margin-top:3mm}
.seal{position:absolute;bottom:24mm;left:0;right:0;display:grid;place-items:center}
.seal svg{width:36mm;height:36mm}
"""


def certificate(award: Award) -> str:
    """Print a certificate on A4 across, with guilloche ornaments."""
    corners = ((26, 26), (271, 26), (26, 183), (271, 183))
    lace = "".join(
        f'<g transform="translate({x} {y})">'
        + "".join(f'<path d="{rosette(petals, 13.5, depth)}"/>' for petals, depth in ((12, 0.12), (9, 0.3), (7, 0.42)))
        + "</g>"
        for x, y in corners
    )
    ground = svg(
        297, 209,
        f'<g fill="none" stroke="{PLUM}"><rect x="10" y="10" width="277" height="189" stroke-width="1.1"/>'
        '<rect x="13" y="13" width="271" height="183" stroke-width=".35"/>'
        f'<g stroke-width=".18" opacity=".75">{lace}</g>'
        f'<g transform="translate(148.5 104.5)" stroke-width=".22" opacity=".13">'
        + "".join(f'<path d="{rosette(petals, 74, 0.32)}"/>' for petals in (8, 11, 14)) + "</g></g>",
    )  # fmt: skip
    seal = svg(
        40, 40,
        f'<g transform="translate(20 20)"><path d="{rosette(24, 18, 0.05)}" fill="#c9a227"/>'
        f'<path d="{rosette(9, 14, 0.2)}" fill="none" stroke="#fff" stroke-width=".4"/>'
        f'<path d="{rosette(14, 14, 0.12)}" fill="none" stroke="#fff" stroke-width=".4"/></g>',
    )  # fmt: skip
    sign = "".join(f"<p><b>{escape(name)}</b></p>" for name in award.signers)
    body = (
        f'<div class="ground">{ground}</div><div class="seal">{seal}</div><div class="words">{icon("wave")}'
        f"<p>{escape(award.issuer)}</p><h1>{award.title}</h1><p>{award.before}</p>"
        f'<p class="who">{escape(award.name)}</p><p>{award.after}</p><p class="course">{escape(award.course)}</p>'
        f'<p>{award.issued}</p><div class="sign">{sign}</div><p class="small">{award.number}</p></div>'
    )
    style = Style(
        f"{award.title} {award.number}", PLUM, award.font, lang=award.lang, direction=award.direction,
        size="A4 landscape", margin="0", test=award.test,
    )  # fmt: skip
    return page(style, body, css=CERTIFICATE_CSS)


def english_award(name: str, course: str, day: date, number: str, *, test: bool = False) -> Award:
    """Fill in a certificate in English."""
    return Award(
        "Certificate of completion", "This is to certify that", name, "has completed the course", course,
        f"Dunmarrow, {long_date(day)}", number, ("Director of studies", "Registrar"), test=test,
    )  # fmt: skip


HEBREW = Award(
    "תעודת סיום", "ניתנת בזאת לאות כי", "פלונית אלמונית", "סיימה בהצלחה את הקורס", "קריאת לוחות גאות ושפל, רמה 2",
    "דנמרו, 12 בדצמבר 2025", "CT-2025-0118", ("מנהלת הלימודים", "רשם המכון"), "מכון מארובי לגאות ולמזג אוויר",
    "he", "'Noto Serif Hebrew','Noto Serif'", "rtl",
)  # fmt: skip
HINDI = Award(
    "पूर्णता प्रमाणपत्र", "यह प्रमाणित किया जाता है कि", "सुश्री नमूना उदाहरणी", "ने यह पाठ्यक्रम सफलतापूर्वक पूरा किया है",
    "ज्वार-भाटा सारणी पठन, स्तर २", "डनमैरो, १२ दिसंबर २०२५", "CT-2025-0119", ("अध्ययन निदेशक", "कुलसचिव"),
    "मैरोबी ज्वार-भाटा एवं मौसम संस्थान", "hi", "'Noto Serif Devanagari','Noto Serif'",
)  # fmt: skip


@dataclass(frozen=True)
class Calibration:
    """What a calibration certificate is printed from; readings are in `unit`."""

    number: str
    day: date
    instrument: str
    serial: str
    unit: str
    step: float
    limit: float

    def data(self) -> dict[str, object]:
        """Return what the template was fed with, as the render's input_data."""
        return {"number": self.number, "instrument": self.instrument, "serial": self.serial}


def calibration(check: Calibration) -> str:
    """Print a calibration certificate: the instrument, the method, the readings, a chart of the errors."""
    errors = [(roll(f"{check.serial}/{index}", 140) - 60) / 100 * check.limit * 0.7 for index in range(21)]
    rows = []
    for index, error in enumerate(errors):
        true = index * check.step
        cells = (f"{true:.2f}", f"{true + error:.3f}", f"{error:+.3f}".replace("-", "−"), f"{check.limit / 5:.3f}")
        rows.append(row(str(index + 1), *cells, "within the limit", numbers=(0, 1, 2, 3, 4)))
    identity = (
        ("Instrument", check.instrument), ("Serial number", check.serial), ("Owner", "Loan store of the Institute"),
        ("Range", f"0 to {check.step * 20:g} {check.unit}"), ("Limit of error", f"± {check.limit:g} {check.unit}"),
        ("Day of calibration", long_date(check.day)),
        ("Good until", long_date(check.day.replace(year=check.day.year + 1))),
        ("Room", "20.0 °C ± 0.4 °C, 52 % humidity"),
    )  # fmt: skip
    spans = [f"{check.step * start:g} to {check.step * (start + 4):g}" for start in range(0, 20, 4)]
    head = (
        "No.",
        f"Reference, {check.unit}",
        f"Reading, {check.unit}",
        f"Error, {check.unit}",
        "Uncertainty",
        "Result",
    )
    body = (
        brand_head(
            "wave", "Marrowby Institute", MARROWBY_SMALL, title="Calibration", below=f"Certificate {check.number}",
            extra=barcode(f"{1_000_000 + roll(check.number, 9_000_000):08d}"),
        )
        + table(("The instrument", ""), (row(name, f"<b>{value}</b>") for name, value in identity))
        + "<h2>Method</h2><p>The instrument was compared at twenty-one points with the working standard of the "
        "Institute, rising and then falling, and the mean of the two readings was taken. Before the first reading it "
        "had stood in the room for twelve hours. The working standard is compared once a year "
        "with the standard of the Harbour Board.</p>"
        "<p>The uncertainty is stated for a probability of 95 per cent. It contains the parts of the standard, of the "
        "resolution, of the temperature and of the observer.</p><h2>Result</h2><p><b>All errors are within the "
        "limit.</b> The instrument may be used without corrections until the day named above, as "
        "long as the seal is unbroken.</p>"
        + '<div class="sign"><p><b>Calibrated by</b>Tobin Quillfeather</p>'
        "<p><b>Checked by</b>Maudlin Overstrand</p></div>"
        + '<h2 class="break">Readings</h2>' + table(head, rows, numbers=(0, 1, 2, 3, 4), css="tight")
        + f"<figure>{line_chart(check.limit, check.unit, spans, [[abs(e) for e in errors]])}"
        + "<figcaption>Size of the error along the range; the top of the chart is the limit.</figcaption></figure>"
    )  # fmt: skip
    style = Style(f"Calibration certificate {check.number}", PLUM, SERIF, f"{MARROWBY_FOOT} · {check.number}")
    return page(style, body, css=LONG_CSS)


# -------------------------------------------------------------------------------- Old Harbour Tickets (project deleted)

RUST = "#a8431f"
HARBOUR = "Pier 3, Old Harbour, Port Ellery<br>desk@oldharbour.example.com"
TICKET_CSS = """
.head{margin-bottom:6mm}.title h1{font-size:17pt}.brand{font-size:11.5pt}
.pass{border:1.2pt solid var(--brand);border-radius:3mm;overflow:hidden;margin-bottom:6mm}
.pass h2{background:var(--brand);color:#fff;padding:3.5mm 5mm;font-size:15pt}
.grid{display:grid;grid-template-columns:repeat(3,1fr);gap:4mm 6mm;padding:5mm}
.grid b{font-size:10.6pt;display:block;line-height:1.3}
.pass .barcode{width:64mm;margin:0 5mm 4mm auto}
h2{margin:6mm 0 3mm;font-size:15pt}
.pass h2{margin:0}
.night{break-inside:avoid;display:grid;grid-template-columns:34mm 1fr;gap:6mm;border-top:.5pt solid var(--line);
  padding:4mm 0}
.night h3{color:var(--brand);font-size:12pt}
"""


def booking(number: str, seats: Sequence[str]) -> str:
    """Print a booking confirmation on A5, one pass for each seat."""
    answers = (
        ("Day", "18 October 2025"), ("Boarding", "19:15, Pier 3"), ("Seat", ""),
        ("Guest", "Wren Ashbucket"), ("Class", "Upper deck"), ("Price", "€ 24.00"),
    )  # fmt: skip

    def boarding_pass(seat: str) -> str:
        grid = "".join(f'<div><p class="label">{name}</p><b>{value or seat}</b></div>' for name, value in answers)
        code = barcode(f"{50_000_000 + roll(number + seat, 9_999_999):08d}")
        return (
            '<div class="pass" style="break-inside:avoid"><h2>Evening of the Ferry Lights</h2>'
            f'<div class="grid">{grid}</div>{code}</div>'
        )

    body = (
        brand_head("ticket", "Old Harbour Tickets", HARBOUR, title="Your booking", below=number)
        + "".join(map(boarding_pass, seats))
        + "<p class='soft'>Please bring this sheet, on paper or on a screen. The boat leaves on time, "
        "whatever the tide. A pass may be given to another person, yet not sold for more than its price.</p>"
    )
    style = Style(f"Booking {number}", RUST, footer="Old Harbour Tickets · Pier 3", size="A5", margin="12mm 12mm 17mm")
    return page(style, body, css=TICKET_CSS)


def programme() -> str:
    """Print the programme of a season on US Letter."""
    months = {0: "<h2>November</h2>", 4: "<h2>December</h2>", 7: '<h2 style="break-before:page">January</h2>'}
    nights = (
        (
            "7 November",
            "The Lamplighters' Choir",
            "Work songs of the rope walk, and rounds for everybody who dares to join in.",
        ),
        (
            "14 November",
            "A Short History of Fog",
            "A talk with a lamp and forty glass slides, most of which show nothing.",
        ),
        ("21 November", "Duets for Bell and Tide", "The tide is live; the bell is played by Maudlin Overstrand."),
        ("28 November", "The Borrowed Barometer", "A comedy in three acts and a storm."),
        ("5 December", "Night of the Small Boats", "Lanterns on the water. Bring a boat no longer than your arm."),
        ("12 December", "The Keeper's Daughter", "A silent film from the attic of the harbour office, with piano."),
        ("19 December", "Soup and Shanties", "Three pots, two concertinas, one long table."),
        ("2 January", "New Year's Swim, Told by Those Who Stayed Dry", "Readings, with blankets."),
        ("9 January", "The Cartographers' Ball", "Dancing by compass. Lessons from seven o'clock."),
        ("16 January", "An Evening with the Foghorn", "Ear plugs are handed out at the door."),
        ("23 January", "Letters Found in Bottles", "Read by the finders, answered by the audience."),
        ("30 January", "Farewell to the Old Ferry", "Music on both decks until the lamps are out."),
    )
    listing = "".join(
        f'{months.get(number, "")}<div class="night"><div><b>{day}</b><br>'
        f'<span class="soft">20:00 · € {12 + roll(title, 8)}.00</span></div>'
        f"<div><h3>{title}</h3><p>{text}</p></div></div>"
        for number, (day, title, text) in enumerate(nights)
    )
    body = (
        brand_head(
            "ticket", "Old Harbour Tickets", HARBOUR,
            title="Winter season", below="November 2025 to January 2026",
        )
        + "<p style='font-size:11pt;margin-bottom:5mm'>Twelve evenings in the Ferry Hall at Pier 3. The hall is "
        "heated; the pier is not. Doors open at half past seven.</p>" + listing
        + '<div class="note" style="margin-top:5mm"><p class="label">Tickets</p>At the desk on Pier 3 from four, '
        "or by letter. Members of the ferry club pay half. Children who can see over the desk pay nothing.</div>"
    )  # fmt: skip
    style = Style("Winter season", RUST, footer="Old Harbour Tickets · Pier 3", size="Letter")
    return page(style, body, css=TICKET_CSS)


def refund(number: str) -> str:
    """Print a refund receipt on A5."""
    rows = (
        row("Evening of the Ferry Lights, seat U14", "1", "€ 24.00", numbers=(1, 2)),
        row("Evening of the Ferry Lights, seat U15", "1", "€ 24.00", numbers=(1, 2)),
        row("Supper on board<small>Cancelled because of fog</small>", "2", "€ 37.00", numbers=(1, 2)),
        row("<b>Paid back</b>", "", "<b>€ 85.00</b>", numbers=(1, 2)),
    )
    body = (
        brand_head("ticket", "Old Harbour Tickets", HARBOUR, title="Refund", below=number)
        + "<p style='margin-bottom:5mm'>Dear Wren Ashbucket,<br>the boat could not sail on 18 October because of fog. "
        "We have paid the price of your passes and of the supper back in the way in which you paid.</p>"
        + table(("For", "Pieces", "Amount"), rows, numbers=(1, 2))
        + "<p class='thanks'>The passes are no longer valid. We hope to see you, and the lights, another time.</p>"
        + '<div class="sign"><p><b>Desk</b>Old Harbour Tickets</p><p><b>Date</b>20 November 2025</p></div>'
    )
    style = Style(f"Refund {number}", RUST, footer="Old Harbour Tickets · Pier 3", size="A5", margin="12mm 12mm 17mm")
    return page(style, body, css=TICKET_CSS)


# ------------------------------------------------------------------------------------------- projects, keys and renders


@dataclass(frozen=True)
class Project:
    """A row of projects.json."""

    slug: str
    name: str
    color: str
    created: datetime
    updated: datetime
    deleted: datetime | None = None

    @property
    def id(self) -> str:
        """The project's id."""
        return uuid7(self.created, f"project-{self.slug}")

    def record(self) -> dict[str, object]:
        """Return the row as Postgres would give it."""
        return {
            "id": self.id,
            "user_id": uuid7(self.created - timedelta(days=2), f"user-{self.slug}"),
            "name": self.name,
            "slug": self.slug,
            "brand_color": self.color,
            "brand_logo_url": f"https://example.com/logos/{self.slug}.svg",
            "created_at": pg_time(self.created),
            "updated_at": pg_time(self.updated),
            "deleted_at": pg_time(self.deleted),
        }

    def template_id(self, template: str) -> str:
        """Return the id of one of the project's templates; `template` may name a version of it."""
        return uuid7(self.created + timedelta(hours=1), f"template-{self.slug}-{template}")


LANTERN = Project(
    "lanternfield-goods", "Lanternfield Goods", TEAL, at("2025-09-01T08:30:12.418"), at("2026-01-14T10:02:55.031")
)
MARROW = Project("marrowby-institute", MARROWBY, PLUM, at("2025-09-15T13:47:40.902"), at("2025-10-08T07:15:21.640"))
TICKETS = Project(
    "old-harbour-tickets", "Old Harbour Tickets", RUST, at("2025-08-20T16:05:03.277"), at("2026-02-10T09:00:00.512"),
    at("2026-02-10T09:00:00.512"),
)  # fmt: skip
PROJECTS = (LANTERN, MARROW, TICKETS)


@dataclass(frozen=True)
class Key:
    """An entry of keys.json; `minted` keys are written as the API's answer to the mint call, with the plain key."""

    project: Project
    name: str
    prefix: str
    number: int
    created: datetime
    revoked: datetime | None = None
    minted: bool = False

    @property
    def plain(self) -> str:
        """The key itself."""
        return f"{self.prefix}SAMPLEonlyNotASecret{self.number:06d}"

    def record(self) -> dict[str, object]:
        """Return the entry as Postgres or the API would give it."""
        key_id = uuid7(self.created, f"key-{self.number}")
        if self.minted:
            return {
                "id": key_id,
                "projectId": self.project.id,
                "name": self.name,
                "prefix": self.prefix,
                "key": self.plain,
                "createdAt": api_time(self.created),
            }
        return {
            "id": key_id,
            "project_id": self.project.id,
            "name": self.name,
            "prefix": self.prefix,
            "key_hash": hashlib.sha256(self.plain.encode()).hexdigest(),
            "created_at": pg_time(self.created),
            "revoked_at": pg_time(self.revoked),
        }


KEYS = (
    Key(TICKETS, "Box office", "ck_live_Old1", 1, at("2025-08-20T16:20:44.109")),
    Key(LANTERN, "Shop, first key", "ck_live_Lan1", 2, at("2025-09-01T08:41:00.356"), at("2026-01-14T10:02:54.870")),
    Key(LANTERN, "Shop", "ck_live_Lan2", 3, at("2026-01-14T09:58:30.045")),
    Key(LANTERN, "Shop, tests", "ck_test_Lan3", 4, at("2025-09-01T08:43:17.733")),
    Key(MARROW, "Registry", "ck_live_Mar1", 5, at("2025-09-15T14:01:09.218")),
    Key(MARROW, "Registry, tests", "ck_test_Mar2", 6, at("2026-02-02T11:30:00.467"), minted=True),
)


@dataclass(frozen=True)
class Render:
    """A line of renders.ndjson and, if it succeeded, what to print."""

    project: Project
    template: str
    created: datetime
    data: Mapping[str, object]
    html: Callable[[], str] | None = None
    status: str = "succeeded"
    error: str | None = None
    api: bool = False
    stored: bool = True
    number: int = 0

    @property
    def id(self) -> str:
        """The render's id."""
        return uuid7(self.created, f"render-{self.number}")

    @property
    def key(self) -> str:
        """The key of the PDF in the bucket."""
        return f"renders/{self.project.id}/{self.id}.pdf"

    @property
    def started(self) -> datetime | None:
        """The time at which a worker took the render up."""
        if self.status in ("queued", "cancelled"):
            return None
        return self.created + timedelta(milliseconds=40 + roll(f"wait/{self.number}", 900))

    @property
    def completed(self) -> datetime | None:
        """The time at which the render ended, well or badly."""
        if self.status not in ("succeeded", "failed") or self.started is None:
            return None
        return self.started + timedelta(milliseconds=700 + roll(f"took/{self.number}", 4200))

    def record(self) -> dict[str, object]:
        """Return the line as Postgres or the API would give it."""
        return self.api_answer() if self.api else self.row()

    def row(self) -> dict[str, object]:
        """Return the row of the table renders."""
        return {
            "id": self.id,
            "project_id": self.project.id,
            "template_id": self.project.template_id(self.template),
            "template_version_id": self.project.template_id(f"{self.template}/1"),
            "status": self.status,
            "input_data": self.data,
            "error_message": self.error,
            "asset_key": self.key if self.status == "succeeded" else None,
            "started_at": pg_time(self.started),
            "created_at": pg_time(self.created),
            "completed_at": pg_time(self.completed),
        }

    def api_answer(self) -> dict[str, object]:
        """Return the answer of GET /v1/renders/:id, with the project's and the template's id added."""
        url = f"{API}/v1/renders/{self.id}"
        took = (self.completed - self.created) / timedelta(milliseconds=1) if self.completed else None
        return {
            "id": self.id,
            "projectId": self.project.id,
            "templateId": self.project.template_id(self.template),
            "status": self.status,
            "pollUrl": url,
            "downloadUrl": f"{url}/download" if self.status == "succeeded" else None,
            "errorMessage": self.error,
            "createdAt": api_time(self.created),
            "completedAt": api_time(self.completed),
            "durationMs": round(took) if took is not None else None,
        }


def order_of(
    number: str,
    day: str,
    customer: tuple[str, ...],
    lines: tuple[Line, ...] | int,
    *,
    reference: str = "",
    vat: int = 21,
    words: Words = ENGLISH,
    test: bool = False,
) -> Order:
    """Make an order; lines may be a count of lines to make up, and a missing reference is made up too."""
    filled = basket(number, lines) if isinstance(lines, int) else lines
    reference = reference or f"PO {4000 + roll(number, 5000)}"
    return Order(number, date.fromisoformat(day), customer, filled, reference, vat=vat, words=words, test=test)


BAKERY = ("Copperleaf Bakery", "3 Kiln Lane", "Port Ellery")
TOWER = ("Tidewater Observatory", "The Old Signal House", "Cinder Hill")
SCHOOL = ("Hollowbrook School Trust", "Bursar's office, 40 Larch Avenue", "Hollowbrook")
THEATRE = ("The Paper Moon Theatre", "Stage door, 8 Candlemas Street", "Wexley Sands")
INN = ("The Sleeping Heron Inn", "1 Causeway", "Saltmere")
GREEK_SHOP = ("Φανταστικό Πανδοχείο «Το Δείγμα»", "Οδός Ανύπαρκτη 7", "Νήσος Παραδείγματος")
BULGARIAN_SHOP = ("Измислена книжарница „Образец“", "ул. „Несъществуваща“ 12", "гр. Примерово")
JAPANESE_SHOP = ("見本商店株式会社 御中", "例示通り一丁目2番3号", "架空市")
ARABIC_SHOP = ("متجر النموذج الخيالي", "١٢ شارع المثال", "مدينة غير موجودة")
SITES = ("North Hall", "South Hall", "Workshop", "Library", "Boat house", "Kitchen")


def lantern_renders() -> Iterator[Render]:
    """List the renders of Lanternfield Goods."""

    def add(template: str, created: str, order: Order, html: Callable[[], str], *, api: bool = False) -> Render:
        return Render(LANTERN, template, at(created), order.data(), html, api=api)

    def bill(created: str, order: Order, *, api: bool = False) -> Render:
        return add("invoice", created, order, lambda: invoice(order), api=api)

    def note(created: str, order: Order, code: str) -> Render:
        return add("delivery-note", created, order, lambda: delivery_note(order, code))

    school = basket("INV-2025-0431", 60, groups=SITES)
    yield bill("2025-10-06T09:12:04.518", order_of("INV-2025-0417", "2025-10-06", BAKERY, 6))
    yield note("2025-10-06T09:12:09.027", order_of("DN-2025-0417", "2025-10-06", BAKERY, 6), "20251006041704")
    yield bill("2025-10-22T14:40:51.933", order_of("INV-2025-0423", "2025-10-22", TOWER, 9), api=True)
    yield bill("2025-11-04T10:05:30.206", order_of("INV-2025-0431", "2025-11-04", SCHOOL, school))
    yield note("2025-11-04T10:05:31.664", order_of("DN-2025-0431", "2025-11-04", SCHOOL, school[:26]), "20251104043107")
    yield bill(
        "2025-12-01T08:20:17.390", order_of("INV-2025-0448", "2025-12-01", GREEK_SHOP, GREEK_LINES, vat=24, words=GREEK)
    )
    yield bill(
        "2025-12-03T07:55:42.811",
        order_of("INV-2025-0450", "2025-12-03", JAPANESE_SHOP, JAPANESE_LINES, vat=10, words=JAPANESE),
    )
    yield bill(
        "2025-12-10T16:33:08.145",
        order_of("INV-TEST-0001", "2025-12-10", ("Test customer", "Test street 1", "Testing"), 5, test=True),
    )
    returned = (Line("LF-1310", "Slatted crate", "Pine, 40 × 30 × 25 cm, stacks", 4, 2680),)
    credit = order_of("CN-2025-0009", "2025-12-18", SCHOOL, returned, words=CREDIT, reference="INV-2025-0431")
    yield add("credit-note", "2025-12-18T11:02:26.770", credit, lambda: invoice(credit))
    yield Render(
        LANTERN,
        "statement",
        at("2026-01-02T06:00:01.004"),
        {"customer": INN[0], "year": 2025},
        lambda: statement(INN, 2025),
    )
    yield Render(LANTERN, "catalogue", at("2026-01-15T13:27:55.482"), {"year": 2026}, lambda: catalogue(2026))
    arabic = order_of("INV-2026-0011", "2026-01-20", ARABIC_SHOP, ARABIC_LINES, vat=5, words=ARABIC)
    yield bill("2026-01-20T09:48:13.659", arabic)
    bulgarian = order_of("INV-2026-0015", "2026-01-27", BULGARIAN_SHOP, BULGARIAN_LINES, vat=20, words=BULGARIAN)
    yield bill("2026-01-27T12:15:37.298", bulgarian, api=True)
    yield note("2026-02-02T10:30:20.951", order_of("DN-2026-0018", "2026-02-02", INN, 9), "20260202001801")
    yield bill("2026-02-11T15:09:46.073", order_of("INV-2026-0024", "2026-02-11", THEATRE, 22))
    yield bill("2026-03-03T08:41:12.340", order_of("INV-2026-0033", "2026-03-03", INN, 8), api=True)
    test = order_of("DN-TEST-0002", "2026-03-05", ("Test customer", "Test street 1", "Testing"), 7, test=True)
    yield note("2026-03-05T17:20:03.886", test, "00000000000002")
    yield bill("2026-03-19T09:33:58.127", order_of("INV-2026-0040", "2026-03-19", BAKERY, 10))
    lost = order_of("INV-2026-0041", "2026-03-20", TOWER, 4)
    yield Render(LANTERN, "invoice", at("2026-03-20T10:11:29.604"), lost.data(), lambda: invoice(lost), stored=False)
    bad = {"number": "INV-2026-0042", "customer": None, "lines": 3, "vat": 21}
    yield Render(
        LANTERN,
        "invoice",
        at("2026-03-23T08:02:40.915"),
        bad,
        status="failed",
        error="Input data: “customer” must be a string.",
    )
    yield Render(LANTERN, "catalogue", at("2026-03-30T14:00:00.231"), {"year": 2027}, status="cancelled")
    waiting = {"number": "INV-2026-0043", "customer": BAKERY[0], "lines": 2, "vat": 21}
    yield Render(LANTERN, "invoice", at("2026-03-31T16:59:58.742"), waiting, status="queued", api=True)


def marrow_renders() -> Iterator[Render]:
    """List the renders of the Marrowby Institute."""

    def award(created: str, filled: Award, *, api: bool = False) -> Render:
        return Render(MARROW, "certificate", at(created), filled.data(), lambda: certificate(filled), api=api)

    def check(created: str, filled: Calibration) -> Render:
        return Render(MARROW, "calibration", at(created), filled.data(), lambda: calibration(filled))

    level_2, log = "Reading of Tide Tables, Level 2", "Keeping a Station Log"
    yield Render(MARROW, "report", at("2025-10-09T11:30:05.667"), Q3.data(), lambda: report(Q3))
    yield award("2025-10-15T09:00:33.140", english_award("Wren Ashbucket", level_2, date(2025, 10, 15), "CT-2025-0097"))
    parties = {"number": "RA-2025-07", "borrower": BORROWER[0], "stations": 5}
    yield Render(MARROW, "agreement", at("2025-11-12T10:44:21.873"), parties, lambda: agreement(date(2025, 11, 12)))
    gauge = Calibration("CC-2025-0311", date(2025, 11, 18), "Float tide gauge", "TG-1202", "m", 0.5, 0.01)
    yield check("2025-11-18T13:21:47.019", gauge)
    yield award("2025-12-12T08:15:10.552", HEBREW)
    yield award("2025-12-12T08:15:11.308", HINDI)
    yield Render(MARROW, "report", at("2026-01-12T10:02:39.474"), Q4.data(), lambda: report(Q4), api=True)
    chinese = {"quarter": "2025年第四季度", "language": "zh-Hans"}
    yield Render(MARROW, "report", at("2026-01-13T07:36:18.225"), chinese, chinese_summary)
    practice = english_award("Test Person", log, date(2026, 2, 3), "CT-TEST-0001", test=True)
    yield award("2026-02-03T12:50:44.990", practice)
    vane = Calibration("CC-2026-0027", date(2026, 2, 17), "Station barometer", "SB-1288", "hPa", 55, 0.4)
    yield check("2026-02-17T14:08:52.361", vane)
    yield award(
        "2026-02-24T09:19:05.708", english_award("Caspar Brindlecott", log, date(2026, 2, 24), "CT-2026-0012"), api=True
    )
    yield Render(
        MARROW,
        "agreement",
        at("2026-03-10T15:42:27.856"),
        {**parties, "addition": 1},
        lambda: amendment(date(2026, 3, 10)),
    )
    yield Render(
        MARROW, "report", at("2026-03-26T09:05:14.188"), {"quarter": "First quarter 2026"}, status="failed", api=True,
        error="The picture https://example.org/maps/network.png could not be loaded.",
    )  # fmt: skip
    yield Render(MARROW, "certificate", at("2026-03-27T10:10:10.619"), {"number": "CT-2026-0019"}, status="cancelled")
    yield Render(MARROW, "calibration", at("2026-03-31T16:58:31.437"), {"number": "CC-2026-0035"}, status="rendering")
    yield Render(MARROW, "certificate", at("2026-03-31T16:59:40.083"), {"number": "CT-2026-0020"}, status="queued")


def ticket_renders() -> Iterator[Render]:
    """List the renders of the deleted project."""
    seats = ["U14", "U15"]
    booked = {"number": "OH-58213", "seats": list(seats)}
    yield Render(TICKETS, "booking", at("2025-10-03T18:24:11.760"), booked, lambda: booking("OH-58213", seats))
    yield Render(TICKETS, "programme", at("2025-10-14T12:00:45.095"), {"season": "winter"}, programme, api=True)
    yield Render(
        TICKETS, "refund", at("2025-11-20T09:37:22.412"), {"number": "OH-58213-R"}, lambda: refund("OH-58213-R")
    )
    yield Render(
        TICKETS, "booking", at("2025-11-21T20:01:36.577"), {"number": "OH-58644", "seats": []}, status="failed",
        error="The printer did not answer within 30000 ms.",
    )  # fmt: skip


def all_renders() -> list[Render]:
    """Return all renders by creation time, numbered in that order (the number goes into the id)."""
    found = sorted([*lantern_renders(), *marrow_renders(), *ticket_renders()], key=lambda render: render.created)
    return [replace(render, number=number) for number, render in enumerate(found, 1)]


# ----------------------------------------------------------------------------------------------------------- printing


class SampleError(Exception):
    """The sample cannot be made; the text says why, in one sentence."""


def find_chromium() -> str:
    """Return the path of Chromium.

    Raises:
        SampleError: It, or a font that the documents need, is not installed.
    """
    found = next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise SampleError("Chromium was not found: install it (on Debian: apt-get install chromium) and try again.")
    if lister := shutil.which("fc-list"):
        families = subprocess.run([lister, ":", "family"], capture_output=True, text=True, check=True).stdout
        if missing := [font for font in FONTS if font not in families]:
            raise SampleError(
                f"Fonts are missing ({', '.join(missing)}): install them "
                "(on Debian: apt-get install fonts-noto-core fonts-noto-cjk fonts-wqy-zenhei) and try again."
            )
    return found


def print_pdf(chromium: str, html: str) -> bytes:
    """Print a page to a PDF and return its bytes.

    Raises:
        SampleError: Chromium failed, took too long, or wrote no whole PDF.
    """
    with tempfile.TemporaryDirectory(prefix="craftkit-sample-") as name:
        folder = Path(name)
        source, target = folder / "page.html", folder / "page.pdf"
        source.write_text(html, encoding="utf-8")
        command = [chromium, *CHROMIUM_OPTIONS, f"--user-data-dir={folder / 'profile'}", f"--print-to-pdf={target}"]
        try:
            done = subprocess.run([*command, source.as_uri()], capture_output=True, text=True, timeout=PRINT_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise SampleError(f"Chromium did not finish a page within {PRINT_TIMEOUT_S} s.") from error
        pdf = target.read_bytes() if target.exists() else b""
    if not pdf.startswith(b"%PDF-") or not pdf.rstrip().endswith(b"%%EOF"):
        raise SampleError(f"Chromium wrote no PDF (exit code {done.returncode}): {done.stderr.strip()[-300:]}")
    return pdf


def set_dates(pdf: bytes, moment: datetime) -> bytes:
    """Replace the dates of creation and change, byte for byte, so that the offsets in the PDF stay right."""
    stamp = moment.strftime("(D:%Y%m%d%H%M%S+00'00')").encode()
    pdf, count = re.subn(rb"(?<=Date )\(D:\d{14}\+00'00'\)", lambda _: stamp, pdf)
    if count != 2:
        raise SampleError(f"A PDF has {count} dates where two were expected: this Chromium is too old or too new.")
    return pdf


def print_render(chromium: str, render: Render, bucket: Path) -> str:
    """Print one render into the bucket and return a line about it."""
    assert render.html is not None
    assert render.completed is not None
    pdf = set_dates(print_pdf(chromium, render.html()), render.completed)
    target = bucket / render.key
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(pdf)
    return f"{len(pdf):>8,}  {render.key}"


def write_metadata(folder: Path, renders: Sequence[Render]) -> None:
    """Write the three JSON files."""
    for name, records in (("projects", PROJECTS), ("keys", KEYS)):
        text = json.dumps([record.record() for record in records], indent=2, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    lines = (json.dumps(render.record(), ensure_ascii=False) for render in renders)
    (folder / "renders.ndjson").write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def make(folder: Path, *, metadata_only: bool, jobs: int) -> None:
    """Make the sample in a folder; PDFs of renders that are no longer in the list are removed."""
    renders = all_renders()
    if not metadata_only:
        chromium, bucket = find_chromium(), folder / "bucket"
        wanted = [render for render in renders if render.status == "succeeded" and render.stored]
        with ThreadPoolExecutor(jobs) as pool:
            for line in pool.map(lambda render: print_render(chromium, render, bucket), wanted):
                print(line, flush=True)
        known = {bucket / render.key for render in wanted}
        for stray in set(bucket.glob("renders/*/*.pdf")) - known:
            stray.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    write_metadata(folder, renders)


def main() -> int:
    """Read the command line and make the sample."""
    parser = argparse.ArgumentParser(description="Make the sample PDFs and their metadata.")
    parser.add_argument(
        "--to", type=Path, default=Path(__file__).resolve().parent, metavar="DIR", help="write into DIR"
    )
    parser.add_argument("--metadata-only", action="store_true", help="write only the JSON files, without Chromium")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="pages printed at the same time (2)")
    options = parser.parse_args()
    try:
        make(options.to, metadata_only=options.metadata_only, jobs=options.jobs)
    except SampleError as error:
        print(f"make_sample: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
