"Something odd in every place of what a file says, and a process that is busy with one."
import json
import subprocess
import sys
from contextlib import contextmanager

ODD = [
    None, True, -1, 0, 5, 2**40, 10**300, .5, float('nan'), '', 'x', [], ['x'], [None], [3]*100_000,
    {}, {'x': 1}, [[3]],
]


def places(value, at=()):
    "Every place in a head, those within lists and objects too."
    yield at
    if isinstance(value, dict):
        for key, below in value.items(): yield from places(below, (*at, key))
    if isinstance(value, list) and value: yield from places(value[0], (*at, 0))


def with_odd(head, at, odd):
    "The head with something odd in one place."
    if not at: return odd
    head = json.loads(json.dumps(head))
    inner = head
    for key in at[:-1]: inner = inner[key]
    inner[at[-1]] = odd
    return head


@contextmanager
def busy(place):
    "Another process that has claimed a place, with a child of its own, and is killed at the end."
    code = """
import os, sys, time
from fstcn.files import claim
with claim(sys.argv[1]):
    if os.fork() == 0: time.sleep(2); os._exit(0)
    print('claimed', flush=True)
    time.sleep(600)
"""
    command = [sys.executable, '-c', code, str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == 'claimed\n'
        try: yield process
        finally: process.kill()
