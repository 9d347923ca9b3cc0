"""`tiny-math push`: upload a finished run to the Hugging Face Hub, with a card made from its records."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from tiny_math_solver.cli.merge import add_proof_arguments, merge_and_prove
from tiny_math_solver.support.console import Console
from tiny_math_solver.support.errors import EXIT_INTERRUPTED, UserError
from tiny_math_solver.support.progress import loading

HELP = "upload a finished run to the Hugging Face Hub, with a model card made from its records"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("repository", metavar="REPO", help="OWNER/NAME on the Hub, or NAME for one of your own")
    parser.add_argument("--merged", action="store_true", help="upload the merged model in place of the adapter")
    parser.add_argument("--dtype", help="of the merged model: float32, bfloat16 or float16 (default: the base's own)")
    parser.add_argument("--public", action="store_true", help="make a repository that does not exist yet public")
    parser.add_argument("--revision", metavar="BRANCH", default="main", help="branch to commit to (default main)")
    parser.add_argument("--no-report", action="store_true", help="leave out report.html, which shows the problems")
    parser.add_argument("--yes", action="store_true", help="upload without asking")
    parser.add_argument("--dry-run", action="store_true", help="show the files and the card, and upload nothing")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="with --dry-run: write the files there")
    add_proof_arguments(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    check_arguments(args)
    with loading():
        from tiny_math_solver.hub.uploads import Uploader, check_branch, check_name, hub_token
        from tiny_math_solver.models.adapter import check_adapter_files
        from tiny_math_solver.models.folder import check_model_folder
        from tiny_math_solver.publish.claims import check_publishable
        from tiny_math_solver.publish.metadata import Published
        from tiny_math_solver.publish.model_card import ModelCard
        from tiny_math_solver.publish.publication import publication
        from tiny_math_solver.publish.shared import Shareable
        from tiny_math_solver.report.records import RunRecords
        from tiny_math_solver.runs.records import read_config

    check_branch(args.revision)
    repository, records = check_name(args.repository), RunRecords(args.run)
    check_publishable(records)
    is_whole = (read_config(args.run) or {}).get("lora", {}) is None
    if args.merged and is_whole:
        raise UserError(f"{args.run}: all weights were trained, so there is no adapter to merge: leave --merged out")
    if is_whole:
        check_model_folder(args.run)
    else:
        check_adapter_files(args.run)
    uploader = None if args.dry_run else Uploader(repository, args.revision)
    repository = uploader.repository.name if uploader else repository
    secrets = [token] if (token := hub_token()) else []
    shareable = Shareable(args.run, secrets)
    card = ModelCard(records, shareable, Published(repository, args.merged, is_whole, not args.no_report))
    with tempfile.TemporaryDirectory(prefix="tiny-math-push-") as folder:
        weights = args.run
        if args.merged:
            weights = Path(folder) / "merged"
            if code := merge_and_prove(args.run, weights, args, console):
                console.note("nothing was uploaded")
                return code
        published = publication(args.run, weights, Path(folder) / "made", card, shareable)
        published.refuse(secrets)
        console.say("\n".join([f"for {repository}:", *published.lines]))
        if uploader is None:
            return show(published.files, card.text, args.out, console)
        uploader.repository.refuse_mixture(published.files)
        console.say(visibility_line(uploader.repository, args))
        if not args.yes and not agreed(repository):
            console.note("nothing was uploaded")
            return EXIT_INTERRUPTED
        console.say(f"uploading to {repository}")  # huggingface_hub shows a bar of each large file
        done = uploader.upload(published.files, card.message, private=not args.public)
    console.say(f"commit {done.commit[:12]}: {card.message}" if done.is_new else f"already there: {done.commit[:12]}")
    console.say(uploader.repository.url)
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """Raise UserError for arguments that do not go together, and where nobody could be asked."""
    if args.out and not args.dry_run:
        raise UserError("--out goes with --dry-run: what is uploaded is not written to a folder")
    if args.dtype and not args.merged:
        raise UserError("--dtype goes with --merged: an adapter is uploaded as it is")
    if not (args.dry_run or args.yes or (sys.stdin and sys.stdin.isatty())):
        raise UserError("push asks for confirmation and there is no terminal: add --yes (or --dry-run to look)")


def visibility_line(repository: Any, args: argparse.Namespace) -> str:
    if repository.is_private is None:
        return f"{repository.name} will be created ({'public' if args.public else 'private'})"
    seen = "private" if repository.is_private else "public"
    hint = ": its settings page makes it public" if args.public and repository.is_private else ""
    return f"{repository.name} exists and stays {seen}{hint}"


def agreed(repository: str) -> bool:
    try:
        return input(f"upload to {repository}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def show(files: dict[str, Path], card: str, out: Path | None, console: Console) -> int:
    """Write the files into folder `out`, or show the card."""
    from tiny_math_solver.support.files import check_writable, made_whole, occupied

    if out is None:
        console.say(f"\n{card}")
        return 0
    if occupied(out):
        raise UserError(f"{out}: exists already; choose another --out")
    check_writable(out, "choose another --out")
    try:
        with made_whole(out):
            out.mkdir(parents=True, exist_ok=True)
            for name, path in files.items():
                shutil.copyfile(path, out / name)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from None
    console.say(f"written into {out}; nothing was uploaded")
    return 0
