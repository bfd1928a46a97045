"""The Evidently part of ``drift.py``; runs in an environment with evidently and without this package.

    python _drift_evidently.py STREAM.parquet REFERENCE_DAYS

Each day after the reference is compared with it by DataDriftPreset with its defaults, separately for natural rows and ads.
"""

import json
import sys
import time

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset

DAY_MS = 86_400_000
DEFINITION = DataDefinition(
    numerical_columns=["x", "prediction"], categorical_columns=["category", "slot", "label"]
)


def main() -> None:
    rows = pd.read_parquet(sys.argv[1])
    days = int(sys.argv[2])
    day = (rows["ts"] - rows["ts"].min() // DAY_MS * DAY_MS) // DAY_MS
    rows = rows.drop(columns="ts")
    references = {
        d: Dataset.from_pandas(
            rows[(day < days) & (rows["domain"] == d)].drop(columns="domain"), data_definition=DEFINITION
        )
        for d in (0, 1)
    }
    out, seconds = [], 0.0
    for k in range(days, int(day.max()) + 1):
        flagged = []
        for d, reference in references.items():
            part = rows[(day == k) & (rows["domain"] == d)].drop(columns="domain")
            began = time.perf_counter()
            current = Dataset.from_pandas(part, data_definition=DEFINITION)
            result = Report([DataDriftPreset()]).run(current, reference).dict()
            seconds += time.perf_counter() - began
            flagged += [[d, column] for column in drifted(result)]
        out.append([k, flagged])
    print(json.dumps({"seconds": seconds, "days": out}))


def drifted(result: dict) -> list[str]:
    """Columns for which Evidently's test reports drift: a distance above its threshold, or a p-value below it."""
    found = []
    for metric in result["metrics"]:
        config = metric.get("config", {})
        column, threshold = config.get("column"), config.get("threshold")
        if column is None or threshold is None:
            continue
        value = float(metric["value"])
        is_p_value = "p_value" in config.get("method", "")
        if value < threshold if is_p_value else value >= threshold:
            found.append(column)
    return found


if __name__ == "__main__":
    main()
