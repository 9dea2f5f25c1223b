"""The project's word list: fails where prose or names use other words than the field's.

``python .ci/check_words.py [FILE...]`` prints each place with the word to write instead. Code is read by token, so that
names, comments, docstrings and messages count and code of other libraries does not.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUFFIXES = {".py", ".md", ".rst", ".html", ".j2"}
# This list itself, the changelog's old names, titles of papers, and pages that are data.
EXEMPT = re.compile(
    r"^(\.ci/check_words\.py|CHANGELOG\.md|docs/citations\.md|docs/references\.bib|benchmarks/results/)"
)
WORDS: dict[str, str] = {
    r"pictures?": "image",
    r"(?<!ground )(?<!ground-)(?<!ground_)truth(?!fully)": "ground truth",
    r"released code": "reference implementation",
    r"cold banks?": "empty bank",
    r"drawn to": "matched to, pulled towards",
    r"pass(es|ed|ing)? over": "ignored, skipped",
    r"turn(s|ed|ing)? away": "rejected",
    r"(leave|leaves|left|leaving) out": "ignored, rejected, skipped, omitted",
    r"(refuse|refuses|refused|refusing|refusals?)": "rejects, raises, an error",
    r"(tells?|told)": "reports, logs, raises, warns",
    r"with(out)? a word": "reports, silently",
    r"(stand|stands|standing) on": "depends on",
    r"second step": "second stage, self-training round",
    r"restyl\w*": "style transfer",
    r"luck": "seed variance, noise",
    r"(ask|asks|asking) the device": "read from the device, synchronize",
    r"the first one": "rank 0, the first",
    r"at once": "immediately, all at the same time",
    r"what is not a number": "NaN",
    r"(?<!there )(is|are|was|were) no (?!(longer|more|less|larger|smaller|other|different)\b)(?=\w)": "is not a",
    r"(?-i:(is|are) none)": "there is no, is not a",
    r"(?P<doubled>a|an|the|of|to|is|and|ground) (?P=doubled)": "one of the two",
    r"an (ground|reference|rejected|style|color|gray)": "a",
    r"a (image|empty|error|ignored|optimizer|epoch|unlabeled|uninterrupted)": "an",
    r"\w*colour\w*": "color",
    r"\w*(optimis|normalis|regularis|initialis|synchronis|minimis|maximis|recognis|randomis|quantis)\w*": "-iz-",
    r"\w*neighbour\w*": "neighbor",
    r"\w*behaviour\w*": "behavior",
    r"(centres?|centred)": "center",
    r"gr[e]y(scale)?": "gray",
    r"(un)?labell(ed|ing)": "labeled, labeling",
    r"(modell|travell|cancell|signall)(ed|ing)": "one l",
    r"learnt": "learned",
    r"artefacts?": "artifact",
}
PATTERN = re.compile("|".join(rf"(?P<w{i}>\b{word}\b)" for i, word in enumerate(WORDS)), re.IGNORECASE)
ADVICE = list(WORDS.values())


def found(text: str) -> list[tuple[int, str, str]]:
    """Line, word and advice of each place; names are split at underscores."""
    places = []
    for number, line in enumerate(text.splitlines(), 1):
        for match in PATTERN.finditer(re.sub(r"(?<=\w)_(?=\w)", " ", line)):
            rule = next(i for i in range(len(ADVICE)) if match[f"w{i}"] is not None)
            places.append((number, match[0], ADVICE[rule]))
    return places


def main(paths: list[str]) -> int:
    listed = (
        paths
        or subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    )
    count = 0
    for path in listed:
        if Path(path).suffix in SUFFIXES and not EXEMPT.match(path):
            for number, word, advice in found((ROOT / path).read_text(encoding="utf-8")):
                print(f"{path}:{number}: {word!r}: write {advice}")
                count += 1
    print(f"{count} places use another word than the project's list." if count else "words: all as listed")
    return min(count, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
