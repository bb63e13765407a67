"""What tests read from the report in a browser."""

MINUS = "\u2212"


def pixels(page, view=0):
    return page.evaluate("k => document.querySelectorAll('.view canvas')[k].toDataURL()", view)


def first_column(page, caption):
    table = page.locator("table", has=page.locator("caption", has_text=caption))
    return table.locator("tbody th").all_inner_texts()


def number(text):
    return float(text.replace(MINUS, "-").split()[0])


def trace(page, roi):
    """The markers of an ROI's goals in the DVH, and the names of the ROIs that are fully drawn."""
    return page.evaluate(
        """(roi) => { const plot = document.querySelector('.dvh');
        const one = plot.data.find((t) => t.meta.goalsOf === roi);
        const of = (t) => t.meta.roi ?? t.meta.goalsOf;
        return { x: one && [...one.x], y: one && [...one.y], text: one && one.hovertext,
          bright: [...new Set(plot.data.filter((t) => (t.opacity ?? 1) === 1).map(of))] }; }""",
        roi,
    )
