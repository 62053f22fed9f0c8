"""Write the demo corpus: ``python -m curation.demo FOLDER``."""

import argparse
import sys

from curation.demo import DEFAULT_ROWS, DEFAULT_SEED, generate


def main(arguments: list[str] | None = None) -> None:
    """Read the arguments, write the corpus, say what was planted."""
    parser = argparse.ArgumentParser(prog="python -m curation.demo", description=__doc__)
    parser.add_argument("folder", help="where the files go; it is made if it is missing")
    parser.add_argument("--rows", type=int, default=DEFAULT_ROWS, help="%(default)s by default")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="another seed: other rows")
    options = parser.parse_args(arguments)
    corpus = generate(options.folder, options.rows, options.seed)
    lines = [f"{corpus.rows:,} rows in {len(corpus.files)} files of {corpus.folder}"]
    lines += [f"  {count:>6,}  {defect}" for defect, count in corpus.planted.items()]
    lines.append(f"  {corpus.clean:>6,}  clean")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
