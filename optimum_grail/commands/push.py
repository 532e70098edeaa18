"""``optimum-cli grail push``: publish a compressed checkpoint on the Hub, in one commit."""

from __future__ import annotations

from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand

from optimum_grail.commands._shared import add_output_flags, describe, session

EXAMPLES = """\
  optimum-cli grail push small my-name/Llama-small
  optimum-cli grail push small my-name/Llama-small --dry-run
      show what would be published, with sizes, and send nothing
  optimum-cli grail push small my-name/Llama-small --include "*.gguf" --include NOTICE
      publish these files of the folder too; otherwise only what a run wrote goes
  optimum-cli grail push small my-org/Llama-small --private --tag distilled
  optimum-cli grail push small my-org/Llama-small --create-pr"""


class PushCommand(BaseOptimumCLICommand):
    """One folder, one repository, one commit."""

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the flags."""
        describe(parser, "Publish a compressed checkpoint: all its files in one commit, or none.", EXAMPLES)
        parser.add_argument("folder", metavar="DIR", help="Checkpoint that `grail compress` wrote; it is not changed.")
        parser.add_argument("repo_id", metavar="REPO", help="owner/name on the Hub; created if it is not there.")
        parser.add_argument("--commit-message", metavar="TEXT", help="By default it names the base model.")
        parser.add_argument("--private", action="store_true", default=None, help="Create the repository as private.")
        parser.add_argument("--token", metavar="TOKEN", help="Instead of HF_TOKEN or that of `hf auth login`.")
        parser.add_argument("--revision", metavar="BRANCH", help="Branch to commit to; created if it is not there.")
        parser.add_argument("--create-pr", action="store_true", help="Open a pull request instead of committing.")
        parser.add_argument("--tag", action="append", default=[], dest="tags", metavar="TAG", help="One more tag.")
        parser.add_argument(
            "--include", action="append", default=[], metavar="PATTERN", help="Publish further files of the folder."
        )
        parser.add_argument("--dry-run", action="store_true", help="List what would be published, and send nothing.")
        add_output_flags(parser)

    def run(self) -> None:
        """Publish and print the address, or only list the files."""
        with session(self.args) as out:
            from optimum_grail.hub.content import files_of, left_out
            from optimum_grail.hub.publish import Upload, push_folder

            args = self.args
            found = files_of(args.folder, args.include)
            files = {name: path.stat().st_size for name, path in found.items()}
            out.result = {"repo_id": args.repo_id, "files": files}
            if args.dry_run:
                lines = [f"{size:>15,}  {name}" for name, size in files.items()]
                lines.append(f"{sum(files.values()):>15,}  bytes in {len(files)} files; nothing was sent.")
            else:
                upload = Upload(
                    args.repo_id,
                    args.commit_message,
                    args.private,
                    args.token,
                    args.revision,
                    args.create_pr,
                    tuple(args.tags),
                    tuple(args.include),
                )
                commit = push_folder(args.folder, upload)
                address = str(commit.pr_url or commit.commit_url)
                lines = [f"Published: {address}"]
                out.result |= {"url": address, "commit": commit.oid}
            if others := left_out(args.folder, found):
                lines.append(f"Not published, as no run wrote it: {', '.join(others)} (--include PATTERN takes more)")
            out.console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
