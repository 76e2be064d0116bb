"""HTML elements in which all text is escaped."""
from html import escape


class Html(str):
    """Text that is already HTML. `tag` escapes all other text, and no other function does."""


def tag(name: str, *content: str, **attributes: str) -> Html:
    """An HTML element around text and elements. In names of attributes `_` becomes `-`, and a trailing `_` is dropped.
    """
    words = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
                    for key, value in attributes.items())
    inside = "".join(part if isinstance(part, Html) else escape(part) for part in content)
    return Html(f"<{name}{words}>{inside}</{name}>")
