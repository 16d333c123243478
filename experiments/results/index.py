"""The index of a folder of pictures: each with its table and the command that made it."""

from pathlib import Path

HEAD = """# Figures

Every picture with its table and its command. Written by `python -m experiments.gallery`; do not edit.
"""


def drawn(folder: Path) -> str:
    """The index as markdown, tables by name."""
    alone = [path for path in sorted(folder.glob("*.csv")) if path.with_suffix(".command").exists()]
    parts = [HEAD]
    for table in alone:
        command = table.with_suffix(".command").read_text().strip()
        picture = table.with_suffix(".png")
        shown = f"![{table.stem}]({picture.name})\n\n" if picture.exists() else ""
        parts.append(f"## {table.stem}\n\n{shown}    {command}\n\nTable: [{table.name}]({table.name})\n")
    screens = [path.name for path in sorted(folder.glob("*.png")) if not path.with_suffix(".csv").exists()]
    parts += [f"## {Path(name).stem}\n\n![A screenshot]({name})\n" for name in screens]
    return "\n".join(parts)
