"""The result as text: Markdown that is also readable in a terminal.

Knows: samples, verdicts, the order of rows. Never: how anything is measured, files.
"""

import peers
import ratios
import targets


# How to read what `against` makes.
AGAINST = (
    "Each is compared with the bare one of the same round. Medians over the rounds; in brackets an interval that has the true median "
    "with at least 95 %. *Differs*: this interval of the ratio has nothing in common with that of the bare one against itself."
)


def number(value):
    """Three significant digits, or whole from 100 up, with thousands separated."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    if 0 < abs(value) < 0.1:
        return f"{value:.2g}"
    if value == int(value) and abs(value) < 1e3:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(values):
    """`median (min–max)` of the rounds."""
    if not values:
        return "–"
    median = number(targets.statistics.median(values))
    return median if len(values) == 1 else f"{median} ({number(min(values))}–{number(max(values))})"


def ratio_of(verdict):
    """The ratio with one digit more than elsewhere, so that a target that is just missed does not look met."""
    return "–" if verdict.ratio is None else f"{verdict.ratio:.3f}"


def grid(head, body):
    """A Markdown table with aligned columns; all but the first two are figures."""
    widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
    left = [i < 2 for i in range(len(head))]

    def line(row):
        cells = (text.ljust(w) if l else text.rjust(w) for text, w, l in zip(row, widths, left))
        return "| " + " | ".join(cells) + " |"

    ruler = "|" + "|".join("-" * (w + 2) if l else "-" * (w + 1) + ":" for w, l in zip(widths, left)) + "|"
    return "\n".join([line(head), ruler, *(line(row) for row in body)])


def cells_of(row, samples):
    """(key, title) of a row's lines; the picks are known only after they were measured."""
    if row.key != "pick":
        return [(cell.key, cell.title) for cell in row.cells]
    keys = [key for key in samples.values if key.startswith("pick-")]
    return [(key, "{1}, {2} channels".format(*key.split("-"))) for key in keys]


def figures(rows, samples, programs):
    """A table for each row, with a column for each of the programs under its key."""
    parts = []
    for row in rows:
        shown = programs[row.key]
        body = []
        for key, title in cells_of(row, samples):
            for metric in row.metrics:
                columns = [samples.all(key, metric.key, program) for program in shown]
                if any(columns):
                    body.append([title, f"{metric.name}, {metric.unit}", *map(spread, columns)])
        if not body:
            continue
        head = ["work", "figure", *(peers.TITLES[program] for program in shown)]
        parts.append(f"### {row.title}\n\n{grid(head, body)}")
        notes = [
            f"- {title}, {peers.TITLES[program]}: {note}"
            for key, title in cells_of(row, samples)
            for program, note in samples.notes.get(key, {}).items()
        ]
        if notes:
            parts.append("\n".join(notes))
    return "\n\n".join(parts)


def verdicts(rows, samples, wanted):
    """The table of targets; what was not measured on purpose is left out by the caller."""
    names = {}
    for row in rows:
        for key, title in cells_of(row, samples):
            for metric in row.metrics:
                names[key, metric.key] = (f"{row.title}: {title}", f"{metric.name}, {metric.unit}")
    names["pick-rr-10000", "growth"] = ("one pick of sched: rr, 10 000 channels", "growth since 64 channels, x")
    body = []
    for verdict in wanted:
        target = verdict.target
        work, figure = names.get((target.cell, target.metric), (target.cell, target.metric))
        own = spread(samples.all(target.cell, target.metric, "balance"))
        if target.against == targets.NUMBER:
            other, ratio = "", ""
        elif target.against == targets.BEST:
            name, value = samples.best_peer(target.cell, target.metric, target.at_least)
            other, ratio = (f"{number(value)} {peers.TITLES[name]}" if name else "–"), ratio_of(verdict)
        else:
            other = number(samples.median(target.cell, target.metric, "haproxy")) + " HAProxy"
            ratio = ratio_of(verdict)
        state = "met" if verdict.met else "not measured" if verdict.ratio is None else "MISSED"
        body.append([work, figure, own, other, ratio, str(target), state])
    return grid(["work", "figure", "balance", "compared with", "ratio", "target", "verdict"], body)


def against(rows, samples, base, again):
    """Compares every program with `base` in the same round. `again` is `base` measured once more, which shows the noise."""
    parts = []
    for row in rows:
        body = []
        for cell in row.cells:
            for metric in row.metrics:
                of = {program: samples.rounds.get((cell.key, metric.key, program), {}) for program in row.programs}
                band = ratios.noise(ratios.versus(of.get(again, {}), of.get(base, {})))
                for program in row.programs:
                    one = ratios.versus(of[program], of.get(base, {})) if program != base else None
                    if one:
                        figure = f"{metric.name}, {metric.unit}"
                        says = "noise" if program == again else verdict_of(ratios.differs(one, band))
                        change = within(one.difference, one.difference_within, signed)
                        body.append([cell.title, figure, peers.TITLES[program], change, within(one.ratio, one.ratio_within, ratio), says])
        if body:
            head = ["work", "figure", "balance", "difference", "ratio", "verdict"]
            parts.append(f"### {row.title}\n\n{grid(head, body)}")
    return "\n\n".join(parts)


def verdict_of(differs):
    """The words for a difference."""
    return {None: "too few rounds", False: "none to be seen", True: "differs"}[differs]


def within(value, bounds, shown):
    """`value (low to high)`."""
    return shown(value) if bounds is None else f"{shown(value)} ({shown(bounds[0])} to {shown(bounds[1])})"


def signed(value):
    """A difference, with a sign even if it is positive."""
    return ("+" if value > 0 else "−" if value < 0 else "") + number(abs(value))


def ratio(value):
    """Three digits after the point, since the question may be about a thousandth."""
    return f"{value:.3f}"


def report(title, facts, verdict_table, figure_tables, failures, plots, compared=""):
    """The whole Markdown page."""
    parts = [f"# {title}", "\n".join(f"- {fact}" for fact in facts)]
    if verdict_table:
        parts += ["## Targets", "Medians of the rounds, min and max in brackets.", verdict_table]
    if compared:
        parts += ["## Against the bare one", AGAINST, compared]
    parts += ["## Figures", figure_tables]
    if failures:
        parts += ["## What could not be measured", "\n".join(f"- {failure}" for failure in failures)]
    if plots:
        parts += ["## Plots", "\n".join(f"![{name}]({file})" for name, file in plots)]
    return "\n\n".join(parts) + "\n"
