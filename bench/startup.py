"""From the prompt to the end: `gpve --help`, and the replay of a small trace with a warm compile cache."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(command: list[str], repeat: int = 7) -> dict[str, float]:
    """Least and median wall seconds of a command."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return {"min": round(min(times), 3), "median": round(statistics.median(times), 3)}


def main() -> None:
    """Time three commands."""
    gpve = str(Path(sys.executable).with_name("gpve"))
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "small.csv"
        rows = [f"vm{i},vm,{i},{i + 500},{1000 * (1 + i % 4)},{2048 * (1 + i % 4)}" for i in range(1000)]
        trace.write_text("id,kind,arrival_s,departure_s,cpu_milli,memory_mib\n" + "\n".join(rows) + "\n")
        replay = [gpve, "replay", str(trace), "--policy", "best-fit"]
        subprocess.run(replay, check=True, capture_output=True)
        print(
            json.dumps(
                {
                    "bench": "startup",
                    "help_s": seconds([gpve, "--help"]),
                    "replay_s": seconds(replay),
                    "replay_with_files_s": seconds([*replay, "--out", f"{folder}/out", "--no-plots"]),
                    "replay_with_files_and_plots_s": seconds([*replay, "--out", f"{folder}/out"]),
                }
            )
        )


if __name__ == "__main__":
    main()
