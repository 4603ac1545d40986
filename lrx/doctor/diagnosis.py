"""The result of `lrx.diagnose`: findings in order, with a report, JSON, HTML and a picture."""

from __future__ import annotations

import dataclasses
import html
import json
import shutil
import textwrap
from typing import TYPE_CHECKING, Any

from lrx.doctor.finding import Finding, plain_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NARROWEST = 40  # columns of a report


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Diagnosis:
    """What is wrong with a run, ordered by how sure that is and how costly; `print` writes a report.

    Attributes:
      findings: the findings, the surest and most costly first. Empty if nothing was found.
      checked: code to a sentence about what was checked.
      skipped: code to a sentence about why it could not be checked.
      subject: what was looked at, such as "digits-mlp: adam(0.001), 1,000 steps".
      steps: length of the run.
      steps_used: training steps that the probes took; a gradient counts as one step.
      seconds: duration with compilation.
      evidence: all numbers that were measured, by group; findings follow from these and from
        `lrx.doctor.Thresholds` alone.
    """

    findings: tuple[Finding, ...]
    checked: dict[str, str]
    skipped: dict[str, str]
    subject: str
    steps: int
    steps_used: int
    seconds: float
    evidence: dict[str, Any]

    @property
    def codes(self) -> list[str]:
        """The codes of the findings, in order."""
        return [finding.code for finding in self.findings]

    def __repr__(self) -> str:
        found = ", ".join(f"{each.code} ({each.level})" for each in self.findings) or "nothing found"
        return f"Diagnosis({self.subject}: {found})"

    def __str__(self) -> str:
        return self.report()

    def report(self, width: int | None = None) -> str:
        """Return the report as text.

        Args:
          width: columns, at least 40; by default those of the terminal, at most 100.

        Raises:
          ValueError: if `width` is below 40.
        """
        if width is None:
            width = max(NARROWEST, min(shutil.get_terminal_size().columns, 100))
        if width < NARROWEST:
            raise ValueError(f"width must be at least {NARROWEST} columns, got width={width}: give more.")
        lines = _wrapped(self.subject, width)
        if not self.findings:
            lines.append("Nothing found.")
        for number, finding in enumerate(self.findings, 1):
            cost = f", costs about {finding.cost:.0%} of the run" if finding.cost >= 0.005 else ""
            cause = f", follows from {finding.because}" if finding.because else ""
            lines += ["", *_wrapped(f"{number}. {finding.code} ({finding.level}{cost}{cause})", width)]
            lines += _indented(finding.summary, width)
            numbers = ", ".join(f"{name} {_short(value)}" for name, value in finding.evidence.items())
            lines += _indented(f"Evidence: {numbers}", width)
            lines += _indented(f"Remedy: {finding.remedy.words}", width)
            if finding.remedy.code:
                lines += [f"      {line}" for line in finding.remedy.code.splitlines()]
        lines += ["", *_wrapped(f"Checked: {', '.join(self.checked) or 'nothing'}.", width)]
        for reason in dict.fromkeys(self.skipped.values()):
            codes = [code for code, why in self.skipped.items() if why == reason]
            lines += _wrapped(f"Not checked, {reason}: {', '.join(codes)}.", width)
        lines += _wrapped(self._cost(), width)
        return "\n".join(lines)

    def _cost(self) -> str:
        share = f" ({self.steps_used / self.steps:.0%} of a run)" if self.steps else ""
        return f"Took {self.steps_used:,} steps{share}, {self.seconds:.1f} s with compilation."

    def to_json(self, *, indent: int | None = 1) -> str:
        """Return everything as JSON, without the remedies' optimizers; numbers that are not finite are null."""
        contents = {
            **{name: getattr(self, name) for name in ("subject", "steps", "steps_used", "seconds")},
            "findings": [finding.as_dict() for finding in self.findings],
            **{name: getattr(self, name) for name in ("checked", "skipped")},
            "evidence": _plain(self.evidence),
        }
        return json.dumps(contents, indent=indent, allow_nan=False)

    def plot(self) -> Figure:
        """Draw what was measured: the schedule over the run, the probes' losses and the layers' gradients.

        Raises:
          ImportError: if matplotlib is not installed.
        """
        from lrx.doctor.figures import draw

        return draw(self)

    def _repr_html_(self) -> str:
        rows = []
        for finding in self.findings:
            numbers = ", ".join(f"{name} {_short(value)}" for name, value in finding.evidence.items())
            code = f"<pre>{html.escape(finding.remedy.code)}</pre>" if finding.remedy.code else ""
            cause = f"<br>follows from {finding.because}" if finding.because else ""
            rows.append(
                f"<tr><td><code>{finding.code}</code></td><td>{finding.level}{cause}</td><td>{finding.cost:.0%}</td>"
                f"<td>{html.escape(finding.summary)}</td><td>{html.escape(numbers)}</td>"
                f"<td>{html.escape(finding.remedy.words)}{code}</td></tr>"
            )
        heads = "".join(f"<th>{head}</th>" for head in ("code", "level", "cost", "finding", "evidence", "remedy"))
        table = f"<table><tr>{heads}</tr>{''.join(rows)}</table>" if rows else "<p>Nothing found.</p>"
        checked = f"<p>Checked: {', '.join(self.checked)}.</p>" if self.checked else ""
        return f"<p>{html.escape(self.subject)}</p>{table}{checked}<p>{self._cost()}</p>"


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Return lines of at most `width` columns; codes are not broken at their hyphens."""
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _indented(text: str, width: int) -> list[str]:
    return _wrapped(text, width, "   ")


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, str | bool):
        return value
    return plain_number(value)
