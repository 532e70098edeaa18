"""``optimum-cli grail report``: what a folder holds, as one page for a browser."""

from __future__ import annotations

from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand

from optimum_grail.commands._shared import add_output_flags, add_trust_flag, describe, session
from optimum_grail.errors import DataError

TEXT = """\
Write one HTML page about a folder of this package: a compressed checkpoint, a sweep, or a trimmed vocabulary.

Headline numbers, quality in and out of the calibration corpus, what stayed of every layer, the error per layer, how it
was made; of a sweep, quality against size by method. The file is complete in itself: no script, nothing is loaded from
anywhere, so it can be mailed or put beside the checkpoint.

A compressed checkpoint's page also shows what the dense and the compressed model write, where its report holds that:
--prompt has both go on from a few words, greedily, and keeps the texts in grail_report.json."""
EXAMPLES = """\
  optimum-cli grail report small -o report.html
  optimum-cli grail report sweep -o sweep.html --title "SmolLM2, five sizes"
  optimum-cli grail report small -o report.html --reference MODEL --prompt "Once upon a time" "The capital of France"
      and what both models write, from then on kept in the report"""


class ReportCommand(BaseOptimumCLICommand):
    """One folder, one file."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the flags."""
        describe(parser, TEXT, EXAMPLES)
        parser.add_argument("folder", metavar="DIR", help="What `grail compress`, `sweep` or `trim-vocabulary` wrote.")
        parser.add_argument("-o", "--output", required=True, metavar="FILE", help="HTML file; complete or absent.")
        parser.add_argument("--title", metavar="TEXT", help="Heading; by default the model's name and what was done.")
        parser.add_argument(
            "--prompt", nargs="+", default=[], metavar="TEXT", help="Beginnings that both models go on from."
        )
        parser.add_argument("--reference", metavar="MODEL", help="The dense model for --prompt: folder or Hub id.")
        parser.add_argument("--overwrite", action="store_true", help="Replace an earlier page.")
        add_trust_flag(parser)
        add_output_flags(parser)

    def run(self) -> None:
        """Refuse what cannot be written, let the models write if asked to, and render."""
        with session(self.args) as out:
            from optimum_grail.pages.folder import check_page, write_page

            args = self.args
            if bool(args.prompt) != bool(args.reference):
                raise DataError(
                    "--prompt and --reference go together: name beginnings and the dense model, or neither."
                )
            check_page(args.folder, args.output, args.overwrite)
            if args.prompt:
                from optimum_grail.pages.samples import write_samples

                write_samples(args.folder, args.reference, args.prompt, trust_remote_code=args.trust_remote_code)
            path = write_page(args.folder, args.output, title=args.title, overwrite=args.overwrite)
            out.console.print(f"Written to {path}", markup=False, highlight=False, soft_wrap=True)
            out.result = {"report": str(path)}
