"""Mistakes in the page of a merged file: names that become HTML, proofs of another file, nodes that are lost."""

from __future__ import annotations

from .mutation import Mutation, mutation

PAGE = "netfuse_onnx/page/"

MUTATIONS: tuple[Mutation, ...] = (
    mutation(
        "names-end-the-script",
        PAGE + "scene.py",
        'text.replace("<", "\\\\u003c")',
        "text",
        "test_page.py::test_names_of_files_are_text_and_nothing_else",
    ),
    mutation(
        "templates-escape-nothing",
        PAGE + "build.py",
        "autoescape=True",
        "autoescape=False",
        "test_page.py::test_names_of_files_are_text_and_nothing_else",
    ),
    mutation(
        "any-proof-is-shown",
        PAGE + "material.py",
        "if report.fingerprint == self.fingerprint:",
        "if report.fingerprint:",
        "test_page.py::test_reports_about_another_file_are_refused",
    ),
    mutation(
        "a-fingerprint-of-the-sources-alone",
        "netfuse_onnx/write/fingerprint.py",
        "plain.CopyFrom(model)",
        "plain.CopyFrom(model)\n    plain.graph.ClearField('node')",
        "test_page.py::test_a_report_of_the_file_before_it_was_changed_is_refused",
    ),
    mutation(
        "a-node-of-one-model-has-no-row",
        PAGE + "groups.py",
        "return self.rows.get(rest) if model in self.models else None",
        "return None",
        "test_page.py::test_each_node_of_the_merged_graph_is_in_one_box",
        "test_page.py::test_a_box_has_its_layouts_weights_cost_and_reason",
    ),
    mutation(
        "bars-of-one-length",
        PAGE + "plot.py",
        "room * row.value / most",
        "room",
        "test_page.py::test_bars_are_as_long_as_their_values",
    ),
    mutation(
        "a-page-replaces-anything",
        PAGE + "build.py",
        "and not force and not is_ours(out)",
        "and not force and False",
        "test_page.py::test_what_is_no_page_is_not_replaced",
    ),
)
