"""A process that measures one thing: `python -m benchmarks.speed.worker SPEC`, started by `workers.Worker`.

SPEC is JSON. Its `subject` names a module of this folder whose class `Subject(spec)` has `facts` and a method `turn`.
The process answers in lines of JSON: the facts when it is built, then a line for each line that it is sent, whose
values are the arguments of `turn`. What fails is answered as `failed`, with the error.
"""
import importlib
import json
import os
import sys
import traceback


def main() -> None:
    spec = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(found: dict) -> None:
        answers.write(json.dumps(found) + "\n")
        answers.flush()

    try:
        subject = importlib.import_module(f"benchmarks.speed.{spec['subject']}").Subject(spec)
        answer(subject.facts)
        for line in sys.stdin:
            answer(subject.turn(**json.loads(line)))
    except Exception as error:
        traceback.print_exc()
        answer({"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]})


if __name__ == "__main__":
    main()
