"""``optimum-cli grail card``: render the card of a compressed checkpoint again, from its report."""

from __future__ import annotations

from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand

from optimum_grail.commands._shared import add_base_model_flag, add_output_flags, describe, session

EXAMPLES = """\
  optimum-cli grail card small
  optimum-cli grail card small --base-model meta-llama/Llama-3.2-1B --revision 4f2ac0de --license llama3.2"""


class CardCommand(BaseOptimumCLICommand):
    """The report is the source: what a hand added to the card is lost, licence and language stay."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the flags."""
        describe(parser, "Write README.md of a compressed checkpoint again, from its grail_report.json.", EXAMPLES)
        parser.add_argument("folder", metavar="DIR", help="Checkpoint that `grail compress` wrote.")
        add_base_model_flag(parser)
        parser.add_argument("--revision", metavar="COMMIT", help="Commit of the base model.")
        parser.add_argument("--license", metavar="ID", help="Licence; by default that of the card that is there.")
        parser.add_argument("--title", metavar="TEXT", help="Heading; by default the model's name.")
        parser.add_argument("--tag", action="append", default=[], dest="tags", metavar="TAG", help="One more tag.")
        add_output_flags(parser)

    def run(self) -> None:
        """Render and write; the report learns of the base model too."""
        with session(self.args) as out:
            from optimum_grail.hub.card import rewrite_card

            args = self.args
            path = rewrite_card(
                args.folder,
                base_model=args.base_model,
                revision=args.revision,
                licence=args.license,
                title=args.title,
                tags=tuple(args.tags),
            )
            out.console.print(f"Written to {path}", markup=False, highlight=False, soft_wrap=True)
            out.result = {"card": str(path)}
