"""The verb of `private-models` that attacks: estimators, heads of one's own rows, served models."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
import typer

from he_inference import terminal, user_files
from private_models import feature_files
from private_models.audit import ESTIMATORS
from private_models.errors import OptionError
from private_models.verbs.options import Delta, Epsilon, Json, PublicFile

if TYPE_CHECKING:
    from private_models.accounting import Budget
    from private_models.audit.findings import Fit
    from private_models.audit.report import Section
    from private_models.audit.suite import Target
    from private_models.head import PrivateHead
    from private_models.solvers.task import Progress

REFUTED = 1
app = typer.Typer()


@app.command(epilog="Example: private-models audit --estimator fc --epsilon 4 --report report.html")
def audit(
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    estimator: Annotated[str, typer.Option(help=", ".join(ESTIMATORS))] = "fc",
    runs: Annotated[int, typer.Option(help="Fits with a canary, and as many without.")] = 1000,
    members: Annotated[
        Path | None, typer.Option(help="Features to attack heads on; needs --member-labels.")
    ] = None,
    member_labels: Annotated[Path | None, typer.Option(help="Their labels.")] = None,
    public: PublicFile = None,
    shadows: Annotated[int, typer.Option(help="Shadow heads of the membership attack.")] = 64,
    attribute: Annotated[int | None, typer.Option(help="Column to infer, from 0.")] = None,
    serve: Annotated[
        str | None, typer.Option(help="URL of `he-inference serve`: copy the model behind it.")
    ] = None,
    insecure_plain_http: Annotated[
        bool, typer.Option("--insecure-plain-http", help="Without TLS, beyond this machine.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Page of results to write (HTML).")] = None,
    as_json: Json = False,
) -> None:
    """Attack an estimator, heads of your own rows, and a served model.

    Thousands of tiny fits; with --members also membership inference, canaries, attribute inference,
    inversion and stealing. Exit code 1 if the claim was refuted. A low bound is no reassurance.
    """
    from private_models.accounting import Budget
    from private_models.audit.mechanism import audit_mechanism
    from private_models.audit.report import Report, mechanism_section
    from private_models.audit.subjects import subject
    from private_models.audit.suite import attack_rows

    if report is not None:
        given = [path for path in (members, member_labels, public) if path is not None]
        user_files.check_output(report, *given)
    budget = Budget(epsilon, delta)
    if (members is None) != (member_labels is None):
        raise OptionError("--members and --member-labels go together")
    chosen = subject(estimator, budget)
    target = None
    if members is not None and member_labels is not None:
        target = _target(budget, estimator, members, member_labels, public)
    with terminal.stages(as_json) as show:
        found = audit_mechanism(
            chosen.fit, chosen.problem, runs,
            progress=lambda done: show("fits with and without a canary", done, runs),
        )  # fmt: skip
        page = Report(estimator, epsilon, delta, [mechanism_section(found)])
        if target is not None:
            page.sections.extend(attack_rows(target, shadows, attribute, show))
        if serve is not None:
            rows = None if target is None else target.features
            page.sections.append(_copied(serve, insecure_plain_http, rows, show))
    if report is not None:
        user_files.write(report, page.to_html().encode())
    terminal.report(page.to_dict(), str(page), as_json)
    if page.is_refuted:
        raise typer.Exit(REFUTED)


def _target(
    budget: "Budget", estimator: str, members: Path, labels: Path, public: Path | None
) -> "Target":
    from private_models.audit.suite import Target
    from private_models.features import ArrayRows, check_classes, class_indices

    matrix, names = feature_files.read_features(members), feature_files.read_labels(labels)
    classes = check_classes(np.unique(names))
    known = None if public is None else feature_files.read_features(public)
    fit = _fit_of(budget, estimator, classes, known, len(matrix))
    rows = ArrayRows(matrix, class_indices(names, classes))
    exact = np.concatenate([chunk for chunk, _ in rows.chunks()])
    return Target(fit, exact, rows.labels, len(classes), 1.0, budget.epsilon, budget.delta,
                  feature_files.picture_shape(members))  # fmt: skip


def _fit_of(budget: "Budget", estimator: str, classes: Any, public: Any, most: int) -> "Fit":
    """For all of `most` rows and for halves, of which the size is said but roughly: noise for
    Poisson batches takes seconds to find, and is found once for either."""
    from private_models.features import ArrayRows
    from private_models.pate.ensemble import PateOptions, train_student
    from private_models.training import Options, train

    indices = np.arange(len(classes))
    if estimator == "pate":
        if public is None:
            raise OptionError("--estimator pate asks about public rows: give them with --public")
        options = PateOptions(budget, indices)
        return lambda rows, labels: train_student(ArrayRows(rows, labels), public, options)

    def fit(rows: Any, labels: Any) -> "PrivateHead":
        said = most if len(rows) > 0.75 * most else max(1, most // 2)
        options = Options(budget, indices, cast(Any, estimator), public_features=public, rows=said)
        return train(ArrayRows(rows, labels), options)

    return fit


def _copied(url: str, insecure_plain_http: bool, rows: Any, show: "Progress") -> "Section":
    """The attack on a service of encrypted queries, through the client that it is made for."""
    from he_inference import Client, RemoteServer
    from private_models.audit.suite import attack_service

    with RemoteServer(url, insecure_plain_http=insecure_plain_http) as server:
        signature = server.signature()
        with Client(signature) as client:
            server.register(client.evaluation_keys())
            most = client.max_queries

            def ask(flat: Any) -> Any:
                queries = flat.reshape(-1, *signature.input_shape)
                parts = (queries[at : at + most] for at in range(0, len(queries), most))
                return np.concatenate(
                    [client.decrypt(server.evaluate(client.encrypt(part))) for part in parts]
                )

            width = int(np.prod(signature.input_shape))
            return attack_service(ask, width, signature.input_range, rows, show)
