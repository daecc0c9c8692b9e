"""What MkDocs needs besides: links that leave the folder of the documentation, and blocks that only programs read."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# What the pages link to outside of their folder is copied beside them under these names.
COPIES = {"../server/static/openapi.yaml": "openapi.yaml"}
_COG = re.compile(r"<!-- \[\[\[cog.*?\]\]\] -->\n|<!-- \[\[\[end\]\]\] -->\n?", re.DOTALL)


def on_post_page(output: str, **_more: Any) -> str:
    """Take the script that lets the search work from file:// from the site itself, not from elsewhere."""
    return output.replace("https://unpkg.com/iframe-worker/shim", "assets/frame-worker.js")


def on_post_template(output_content: str, **_more: Any) -> str:
    """Do the same for the page of addresses that lead nowhere."""
    return on_post_page(output_content)


def on_page_markdown(markdown: str, **_more: Any) -> str:
    """Leave out what cog reads, and lead links to the copies."""
    for link, name in COPIES.items():
        markdown = markdown.replace(f"]({link})", f"]({name})")
    return _COG.sub("", markdown)


def on_files(files: Any, config: Any) -> Any:
    """Take along what the pages link to outside of their folder."""
    from mkdocs.structure.files import File

    from_here = {name: ROOT / "docs" / link for link, name in COPIES.items()}
    from_here["assets/frame-worker.js"] = Path(__file__).parent / "site_files/frame-worker.js"
    for name, path in from_here.items():
        files.append(File.generated(config, name, abs_src_path=str(path.resolve())))
    return files
