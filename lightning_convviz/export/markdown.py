"""A little Markdown, as legends and alarms use it, as HTML: paragraphs, lists, bold, emphasis and code."""

import html
import re


def to_html(text: str) -> str:
    r"""The text as HTML. Whatever is HTML already is shown, not obeyed.

    >>> to_html("**Heat**: see `layer4`.")
    '<p><strong>Heat</strong>: see <code>layer4</code>.</p>'
    >>> to_html("- one\n- two <b>")
    '<ul><li>one</li><li>two &lt;b&gt;</li></ul>'
    """
    blocks = re.split(r"\n\s*\n|\n(?=\s*[-*] )", text.strip())
    parts: list[tuple[str, str]] = []
    for block in filter(None, map(str.strip, blocks)):
        kind, content = ("li", block[2:]) if re.match(r"[-*] ", block) else ("p", re.sub(r"^#+ ", "", block))
        parts.append((kind, f"<{kind}>{_inline(content)}</{kind}>"))
    joined = "".join(part for _, part in parts)
    return re.sub(r"(?:<li>.*?</li>)+", r"<ul>\g<0></ul>", joined, flags=re.DOTALL)


def _inline(text: str) -> str:
    """Bold, emphasis and code of a line; inside code nothing else counts."""
    pieces = re.split(r"`([^`]+)`", html.escape(" ".join(text.split())))
    for index in range(0, len(pieces), 2):
        bold = re.sub(r"\*\*(\S(?:.*?\S)?)\*\*", r"<strong>\1</strong>", pieces[index])
        pieces[index] = re.sub(r"(?<![\w*])\*(\S(?:[^*]*?\S)?)\*(?![\w*])", r"<em>\1</em>", bold)
    return "".join(f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces))
