"What no cell can check about the command line: its own notebook's stored output."
import json
from pathlib import Path

from fstcn.cli import app

NB = Path(__file__).resolve().parent.parent/'nbs'/'practice'/'43_cli.ipynb'


def test_stored_help_is_of_today():
    "The help that the notebook shows lists every command, in order."
    cells = json.loads(NB.read_text(encoding='utf-8'))['cells']
    shown = next(text for c in cells for o in c.get('outputs', []) if 'Usage:' in (text := ''.join(o.get('text', []))))
    listed = [line.split()[1] for line in shown.partition(' Commands ')[2].splitlines() if line.startswith('│ ') and line[2] != ' ']
    assert listed == [c.name or c.callback.__name__ for c in app.registered_commands]
