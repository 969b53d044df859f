"""Solves a puzzle with a running ``trm-fast serve``, step by step, with Python's standard library alone."""

import json
import sys
from urllib.request import Request, urlopen

SERVER = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
puzzle = {"model": "sudoku-4x4", "puzzle": "3.......4.3...42", "options": {"max_steps": 16}}
request = Request(f"{SERVER}/api/stream", json.dumps(puzzle).encode(), {"Content-Type": "application/json"})
with urlopen(request) as lines:  # each line is an event: the question, a step, or the answer
    for event in map(json.loads, lines):
        print(event["event"], event.get("solution") or event.get("text") or f"confidence {event['confidence']:.2f}")
