"""Section: all minima of the layer before the output, on some of the samples."""

import shlex
from dataclasses import replace

from reluscape.report.branches import Grown, tree_section
from reluscape.report.findings import LayerSurvey, ModelSurvey, Survey
from reluscape.report.grown import TreeSurvey
from reluscape.report.section import Cell, Section, Table
from reluscape.report.wording import count

ORDER = 45
#: Minima of each tree that the section lists.
LISTED = 10
COLUMNS = ("layer", "samples", "cells", "facets", "minima", "tree")

Found = tuple[ModelSurvey, LayerSurvey, TreeSurvey]


def section(survey: Survey) -> Section | None:
    """The trees of all models; none where there is none."""
    found = [
        (model, layer, layer.tree)
        for model in survey.models
        for layer in model.layers
        if layer.tree is not None
    ]
    if not found:
        return None
    trees = [(tree, _about(survey, model, layer, tree)) for model, layer, tree in found]
    drawn = tree_section(trees, listed=LISTED)
    whole = survey.data.num_samples
    some = any(len(tree.samples) < whole for _, _, tree in found)
    return replace(
        drawn,
        tables=(_trees(found), *drawn.tables),
        method=(*drawn.method, *([_SOME] if some else [])),
    )


_SOME = (
    "The samples are random ones, as many as a layer of so many units may have for a short survey to go "
    "through all cells. Minima of the loss on these are not minima of the loss on all samples."
)


def _about(survey: Survey, model: ModelSurvey, layer: LayerSurvey, tree: TreeSurvey) -> Grown:
    """What the section says besides a tree."""
    options = f"{model.options} {survey.data.options} --loss {survey.loss_name}".strip()
    used, whole = len(tree.samples), survey.data.num_samples
    which = f"{count(used)} of {count(whole)} samples" if used < whole else "all samples"
    again = f"--layer {shlex.quote(layer.name)} --samples {used} --seed {survey.seed} --out again"
    if tree.arithmetic == "rational":
        again = f"--arithmetic rational {again}"
    check = f"reluscape verify {shlex.quote(tree.file)} {options}" if tree.file else ""
    return Grown(
        layer=layer.label,
        data=survey.data.name,
        where=f"Layer {layer.label} alone, on {which}. {tree.where}",
        check=check,
        again=f"reluscape tree {options} {again}",
        version=survey.version,
        seed=survey.seed,
        name=model.name,
    )


def _trees(found: list[Found]) -> Table:
    """How large the trees are, and their files."""
    rows = tuple(
        (
            Cell(f"{model.name}, layer {layer.label}"),
            *(
                Cell(count(value), numeric=True)
                for value in (
                    len(tree.samples),
                    tree.num_cells,
                    tree.num_facets,
                    len(tree.losses),
                )
            ),
            Cell("NetCDF", file=tree.file),
        )
        for model, layer, tree in found
    )
    return Table("The trees", COLUMNS, rows)
