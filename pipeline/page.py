"""One self-contained page (no network) over several runs: what normalization did, why, and what fixes it.

    python -m pipeline.page runs/none runs/bn-loop runs/bn-masked --study studies/norms --out report.html

The cause is read from a run's doctor.json, if it is there. Accuracies come from the run folders, none is computed. The
data file is read for the clips that the page shows.
"""

from __future__ import annotations

import sys

from pipeline.options import Page, read_options
from pipeline.pages.finished import read_run, with_distinct_names
from pipeline.pages.runs import page
from pipeline.run_folder import Run
from preprocessing import exits, files, startup
from preprocessing.pages import Provenance


def main() -> int:
    """Entry of `python -m pipeline.page`; returns the exit code."""
    options: Page = read_options("pipeline.page")
    folders, out, study = options.runs, options.out, options.study
    try:
        files.require_suffix("--out", out, ".html")
        runs = with_distinct_names([read_run(folder) for folder in folders], folders)
        if not runs:
            raise ValueError("No run to show: name at least one run folder.")
        file = Run(folders[0], fast_start=True).data
        for folder in folders[1:]:
            if Run(folder).data_sha256 != file.content_sha256:
                raise ValueError(
                    f"{folder} was trained on another file than {file.path}. A page shows runs on one data file."
                )
        files.publish_text(out, page(runs, study, file, Provenance.of("pipeline.page", sys.argv[1:])))
    except BaseException as error:
        return exits.report(error)
    print(out.resolve())
    return 0


if __name__ == "__main__":
    sys.exit(startup.run(main))
