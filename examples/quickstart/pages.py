"""Writes the pages of the web site into a folder: python3 pages.py FOLDER"""

import pathlib
import sys

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>{title}</title>
<h1>{title}</h1>
<p>{text}</p>
<p><a href="/">home</a> · <a href="/about.html">about</a></p>
"""

folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
pages = {
    "index.html": ("It works", "This page was written by a task and is served by Python's http.server."),
    "about.html": ("About", "Both run under harness. See services.yaml."),
}
for name, (title, text) in pages.items():
    (folder / name).write_text(PAGE.format(title=title, text=text), encoding="utf-8")
    print("wrote", folder / name)
