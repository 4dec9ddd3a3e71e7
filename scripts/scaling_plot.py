"""The plot of scripts/scaling as SVG: efficiency over the number of devices, one panel for each kind of
scaling, with published systems in grey behind. Standard library only; knows nothing of how the numbers
came about.
"""

import math
from html import escape

PANEL_WIDTH, PANEL_HEIGHT, LABEL_WIDTH = 340, 270, 150
LEFT, TOP, SOURCE_HEIGHT = 62, 92, 17
Y_MAX = 1.2
INK, FAINT, GRID, GREY = "#222", "#666", "#e4e4e4", "#9a9a9a"
COLOURS = ["#0b62a4", "#d1601f", "#2c8a4b", "#8a3ea8", "#b08a00", "#c2255c"]
MARKERS = ["circle", "square", "diamond", "triangle"]


def text(x, y, content, size=12, colour=INK, anchor="start", **attributes):
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" '
        f'text-anchor="{anchor}"{extra}>{escape(content)}</text>'
    )


def line(points, colour, width, dash=None):
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"'
        f' stroke-linejoin="round"{dashes}/>'
    )


def marker(kind, x, y, colour, filled=True):
    look = f'fill="{colour if filled else "#fff"}" stroke="{colour}" stroke-width="1.5"'
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" {look}/>'
    shapes = {
        "square": [(-3.6, -3.6), (3.6, -3.6), (3.6, 3.6), (-3.6, 3.6)],
        "diamond": [(0, -4.8), (4.8, 0), (0, 4.8), (-4.8, 0)],
        "triangle": [(0, -4.6), (4.4, 3.6), (-4.4, 3.6)],
    }
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in shapes[kind])
    return f'<polygon points="{points}" {look}/>'


class Panel:
    """One pair of axes, with its upper left corner at (left, top)."""

    def __init__(self, left, top, devices):
        self.left, self.top = left, top
        self.devices = sorted(devices)
        self.octaves = max(math.log2(self.devices[-1]), 1.0)

    def x(self, devices):
        return self.left + 14 + (PANEL_WIDTH - 28) * math.log2(devices) / self.octaves

    def y(self, efficiency):
        return self.top + PANEL_HEIGHT * (1 - min(efficiency, Y_MAX) / Y_MAX)

    def axes(self, title):
        right, bottom = self.left + PANEL_WIDTH, self.top + PANEL_HEIGHT
        drawn = [text(self.left, self.top - 12, title, 13, font_weight="600")]
        for percent in range(0, 121, 20):
            y = self.y(percent / 100)
            ideal = percent == 100
            drawn.append(line([(self.left, y), (right, y)], FAINT if ideal else GRID, 1))
            drawn.append(text(self.left - 8, y + 4, f"{percent} %", 11, FAINT, "end"))
        for devices in self.devices:
            drawn.append(text(self.x(devices), bottom + 18, str(devices), 11, FAINT, "middle"))
        middle = self.left + PANEL_WIDTH / 2
        drawn.append(text(middle, bottom + 36, "devices", 11, FAINT, "middle"))
        return drawn

    def curve(self, series):
        """The line and markers of a series."""
        grey, dash = series["published"], "2 4" if series["published"] else series["dash"]
        points = [(self.x(n), self.y(e)) for n, e in sorted(series["points"].items())]
        drawn = [line(points, series["colour"], 1.3 if grey else 2.2, dash)]
        filled = not grey and not series["dash"]
        drawn += [marker(series["marker"], x, y, series["colour"], filled) for x, y in points]
        return drawn

    def labels(self, all_series):
        """The name of each system at the end of its line; a fed one shares that of its own kind."""
        ends = {}
        for series in all_series:
            if series["dash"]:
                continue
            last = max(series["points"])
            at_edge = last == self.devices[-1]
            x = self.left + PANEL_WIDTH + 6 if at_edge else self.x(last) + 10
            ends.setdefault(x, []).append((self.y(series["points"][last]), series))
        drawn = []
        for x, labels in ends.items():
            labels.sort(key=lambda label: label[0])
            for y, (_, series) in zip(apart([y for y, _ in labels]), labels):
                size = 10.5 if series["published"] else 12
                colour = FAINT if series["published"] else series["colour"]
                drawn.append(text(x, y + 4, series["label"], size, colour))
        return drawn


def apart(heights, distance=14):
    """Sorted heights, moved as little as needed to lie `distance` apart."""
    heights = list(heights)
    for _ in range(100):
        for i in range(len(heights) - 1):
            overlap = distance - (heights[i + 1] - heights[i])
            if overlap > 0:
                heights[i] -= overlap / 2
                heights[i + 1] += overlap / 2
    return heights


def styled(points_of, published):
    """Series with colours and markers. `points_of`: (name, is it fed) to {devices: efficiency}."""
    systems = list(dict.fromkeys(name for name, _ in points_of))
    styled_series = []
    for (name, fed), points in points_of.items():
        index = systems.index(name)
        styled_series.append({
            "label": name,
            "points": points,
            "colour": COLOURS[index % len(COLOURS)],
            "marker": MARKERS[index % len(MARKERS)],
            "dash": "6 4" if fed else None,
            "published": False,
        })  # fmt: skip
    for index, system in enumerate(published):
        styled_series.append({
            "label": f"{system['name']} [{index + 1}]",
            "points": {int(n): s / int(n) for n, s in system["speedup"].items()},
            "colour": GREY,
            "marker": MARKERS[index % len(MARKERS)],
            "dash": None,
            "published": True,
        })  # fmt: skip
    return styled_series


def svg(title, subtitle, panels, published):
    """The whole image. `panels`: title to {(name, fed): {devices: efficiency}}; the published systems are
    drawn in the first, which is to be the one with a constant batch per device, as theirs was."""
    stride = LEFT + PANEL_WIDTH + LABEL_WIDTH
    width = 20 + stride * len(panels)
    height = TOP + PANEL_HEIGHT + 62 + SOURCE_HEIGHT * (len(published) + 1)
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="Helvetica, Arial, sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        text(20, 32, title, 17, font_weight="600"),
        text(20, 52, subtitle, 12, FAINT),
    ]
    for index, (panel_title, points_of) in enumerate(panels.items()):
        all_series = styled(points_of, published if index == 0 else [])
        devices = {n for series in all_series for n in series["points"]} | {1, 2}
        panel = Panel(LEFT + stride * index, TOP, devices)
        drawn += panel.axes(panel_title)
        # Grey first: what was measured here lies on top.
        for series in sorted(all_series, key=lambda series: not series["published"]):
            drawn += panel.curve(series)
        drawn += panel.labels(all_series)
    y = TOP + PANEL_HEIGHT + 66
    for index, system in enumerate(published):
        drawn.append(text(20, y, f"[{index + 1}] {system['source']}", 10.5, FAINT))
        y += SOURCE_HEIGHT
    drawn.append("</svg>")
    return "\n".join(drawn) + "\n"
