"""Charts as SVG text: grouped bars with whiskers, and lines.

Knows: numbers, labels, colours. Never: what they mean, files.
"""

import math
from html import escape

# Okabe and Ito: told apart by all eyes. balance is the loud one.
COLOURS = {"direct": "#999999", "balance": "#D55E00", "haproxy": "#0072B2", "nginx": "#009E73", "pen": "#CC79A7"}
SPARE = ["#56B4E9", "#E69F00", "#000000", "#8B5A2B"]
WIDTH, HEIGHT = 860, 360
LEFT, RIGHT, TOP, BOTTOM = 84, 20, 64, 62


def _text(x, y, text, anchor="middle", size=12, extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" {extra}>{escape(str(text))}</text>'


def _line(x1, y1, x2, y2, colour="#ddd", width=1):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def short(value):
    """A number for an axis or a bar."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scaled = value / (1e3 if unit == "k" else limit)
            return f"{scaled:.3g}{unit}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _steps(low, high, count=5):
    """Round numbers from at or below `low` to at or above `high`."""
    high = high if high > low else low + 1
    width = (high - low) / count
    power = 10 ** math.floor(math.log10(width))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= width)
    first = math.floor(low / step)
    return [i * step for i in range(first, math.ceil(high / step - 1e-9) + 1)]


def _page(title, unit, parts, legend):
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" fill="#222">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 22, title, "start", 15, 'font-weight="bold"'),
    ]
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    head.append(_text(18, middle, unit, extra=f'transform="rotate(-90 18 {middle:.1f})"'))
    x = LEFT
    for name, colour in legend:
        head.append(f'<rect x="{x}" y="34" width="12" height="12" fill="{colour}"/>')
        head.append(_text(x + 17, 44, name, "start"))
        x += 34 + 7.2 * len(name)
    return "\n".join([*head, *parts, "</svg>"]) + "\n"


def _colours(series):
    spare = iter(SPARE * len(series))
    return [COLOURS.get(key) or next(spare) for key in series]


def bars(title, unit, groups, series, values, axis=""):
    """`values[group][key]` = (min, median, max) or None; `series` = {key: name}."""
    everything = [triple for group in values for triple in group.values() if triple]
    steps = _steps(min(0, *(low for low, _, _ in everything)), max(0, *(high for _, _, high in everything)))
    bottom, span = HEIGHT - BOTTOM, steps[-1] - steps[0]

    def height(value):
        return bottom - (value - steps[0]) / span * (bottom - TOP)

    parts = []
    for step in steps:
        parts.append(_line(LEFT, height(step), WIDTH - RIGHT, height(step)))
        parts.append(_text(LEFT - 6, height(step) + 4, short(step), "end"))
    slot = (WIDTH - LEFT - RIGHT) / len(groups)
    bar = min(46, slot * 0.86 / len(series))
    for i, (group, figures) in enumerate(zip(groups, values)):
        x = LEFT + slot * (i + 0.5) - bar * len(series) / 2
        parts.append(_text(LEFT + slot * (i + 0.5), bottom + 18, group))
        for key, colour in zip(series, _colours(series)):
            if figures.get(key):
                low, median, high = figures[key]
                top, size = min(height(median), height(0)), abs(height(median) - height(0))
                centre = x + bar / 2
                box = f'x="{x + 1:.1f}" y="{top:.1f}" width="{bar - 2:.1f}" height="{size:.1f}"'
                parts.append(f'<rect {box} fill="{colour}"/>')
                if high > low:
                    parts.append(_line(centre, height(low), centre, height(high), "#222", 1.4))
                parts.append(_text(centre, min(height(high), top) - 4, short(median), size=10 if bar >= 22 else 8))
            x += bar
    parts.append(_line(LEFT, height(0), WIDTH - RIGHT, height(0), "#222"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, axis))
    return _page(title, unit, parts, list(zip(series.values(), _colours(series))))


def lines(title, unit, axis, points, series, log_y=False):
    """`points[key]` = [(x, min, median, max), ...] on a logarithmic x axis; `series` = {key: name}."""
    everything = [point for key in series for point in points.get(key, [])]
    xs = sorted({point[0] for point in everything})
    low_x, high_x = math.log(xs[0]), math.log(xs[-1])
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT - 20

    def across(x):
        return LEFT + 20 + (math.log(x) - low_x) / ((high_x - low_x) or 1) * (right - LEFT - 20)

    lowest, highest = min(p[1] for p in everything), max(p[3] for p in everything)
    log_y = log_y and lowest > 0
    if log_y:
        steps = [10.0**n for n in range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest) + 1e-9) + 1)]
        steps = steps if len(steps) > 1 else [steps[0], steps[0] * 10]
    else:
        steps = _steps(min(0, lowest), highest or 1)
    scale = math.log10 if log_y else float

    def height(value):
        return bottom - (scale(value) - scale(steps[0])) / (scale(steps[-1]) - scale(steps[0])) * (bottom - TOP)

    parts = []
    for step in steps:
        parts.append(_line(LEFT, height(step), WIDTH - RIGHT, height(step)))
        parts.append(_text(LEFT - 6, height(step) + 4, short(step), "end"))
    for x in xs:
        parts += [_line(across(x), TOP, across(x), bottom), _text(across(x), bottom + 18, f"{x:,}".replace(",", " "))]
    for key, colour in zip(series, _colours(series)):
        path = [(across(x), height(median), height(low), height(high)) for x, low, median, high in points.get(key, [])]
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in path)
        parts.append(f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="2.2"/>')
        for x, y, low, high in path:
            parts.append(_line(x, low, x, high, colour, 1.4))
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4" fill="{colour}"/>')
    parts.append(_line(LEFT, bottom, WIDTH - RIGHT, bottom, "#222"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, axis))
    return _page(title, unit, parts, list(zip(series.values(), _colours(series))))
