"""Pieces of SVG: escaped by construction, coloured by the page's variables."""

from html import escape
from typing import Final

# One palette for the page and for pictures that stand alone; blue and orange stay apart for every
# kind of colour blindness (Okabe and Ito 2008), and both reach 4.5:1 against their background.
LIGHT: Final = {
    "paper": "#fcfbf8", "card": "#ffffff", "ink": "#1c2430", "soft": "#5c6675", "line": "#e2dfd8",
    "kept": "#1f6f9f", "kept-pale": "#cfe2ee", "lost": "#c2500f", "lost-pale": "#f7d9c4",
}  # fmt: skip
DARK: Final = {
    "paper": "#12161d", "card": "#1a2029", "ink": "#e9e7e2", "soft": "#a3adba", "line": "#2d3642",
    "kept": "#5fb0dc", "kept-pale": "#23445a", "lost": "#f08a4b", "lost-pale": "#57341f",
}  # fmt: skip
MARGIN: Final = 24  # around a picture that stands alone
FONT: Final = (
    "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'PingFang SC', 'Noto Sans CJK SC', "
    "'Microsoft YaHei', sans-serif"
)


def element(name: str, content: str = "", /, **attributes: object) -> str:
    """Write an element; content is markup, attributes are escaped, a name may end in _."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def text(content: str, x: float, y: float, **attributes: object) -> str:
    """Write a text, escaped."""
    return element("text", escape(content, quote=False), x=x, y=y, **attributes)


def rect(x: float, y: float, width: float, height: float, **attributes: object) -> str:
    """Draw a rectangle, with what a pointer shows over it as ``tip``."""
    tip = str(attributes.pop("tip", ""))
    width, height = max(0.0, width), max(0.0, height)
    return element("rect", _title(tip), x=x, y=y, width=width, height=height, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> str:
    """Draw a line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def circle(x: float, y: float, radius: float, **attributes: object) -> str:
    """Draw a disc, with what a pointer shows over it as ``tip``."""
    tip = str(attributes.pop("tip", ""))
    return element("circle", _title(tip), cx=x, cy=y, r=radius, **attributes)


def picture(
    width: float, height: float, label: str, *content: str, class_: str = "", style: str = ""
) -> str:
    """Wrap content in an SVG that scales to its place and is read out by its label."""
    return element(
        "svg",
        "".join(content) or " ",  # an empty element would have no place for a style
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_plain(width)} {_plain(height)}",
        role="img",
        aria_label=label,
        class_=class_ or None,
        style=style or None,
    )


def alone(drawing: str, width: float, height: float) -> str:
    """Give a picture its own colours, font and size, so that it can be a file of its own."""
    style = (
        f"svg{{{_variables(LIGHT)};background:var(--paper);font-family:{FONT}}}"
        f"@media(prefers-color-scheme:dark){{svg{{{_variables(DARK)}}}}}{PICTURE_STYLE}"
    )
    head, rest = drawing.split(">", 1)
    size = (_plain(width + 2 * MARGIN), _plain(height + 2 * MARGIN))
    head = head.replace('viewBox="0 0', f'viewBox="-{MARGIN} -{MARGIN}')
    head = head.replace(f'{_plain(width)} {_plain(height)}"', f'{size[0]} {size[1]}"', 1)
    return f'{head} width="{size[0]}" height="{size[1]}"><style>{style}</style>{rest}'


def palette() -> str:
    """Write the page's colours as CSS, light and dark."""
    return (
        f":root{{color-scheme:light dark;{_variables(LIGHT)}}}"
        f"@media(prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}"
    )


def cut(content: str, max_width: float) -> str:
    """Cut a text to a width in units of a narrow character; a wide (CJK) one counts two."""
    width = 0
    for at, character in enumerate(content):
        width += cells(character)
        if width > max_width:
            kept = content[:at]
            while kept and cells(kept) > max_width - 1:
                kept = kept[:-1]
            return kept + "…"
    return content


def cells(content: str) -> int:
    """Return the columns that a text takes on a terminal."""
    from rich.cells import cell_len

    return cell_len(content)


def _title(tip: str) -> str:
    return element("title", escape(tip, quote=False)) if tip else ""


def _variables(colours: dict[str, str]) -> str:
    return ";".join(f"--{name}:{colour}" for name, colour in colours.items())


def _plain(value: object) -> str:
    """Write a coordinate with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


# Shared by the page and by pictures that stand alone.
PICTURE_STYLE: Final = """
svg text{fill:var(--ink);font-size:13px}
svg .soft{fill:var(--soft)}
svg .small{font-size:11px}
svg .strong{font-weight:600}
svg .number{font-variant-numeric:tabular-nums}
svg .kept{fill:var(--kept)}
svg .kept-pale{fill:var(--kept-pale)}
svg .lost{fill:var(--lost)}
svg .lost-pale{fill:var(--lost-pale)}
svg .ink{fill:var(--ink)}
svg .faint{fill:var(--line)}
svg .axis{stroke:var(--line);stroke-width:1}
svg .joint{stroke:var(--ink);stroke-width:2}
svg .threshold{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:4 3}
"""
