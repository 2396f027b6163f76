"""How the teacher is asked to explain a gold answer (`rationales.explain_gold`).

Here alone a gold answer becomes part of a prompt for rationales. Exams, the rationales of test questions that
an upper bound searches with, and what students are asked never have it.
"""

from __future__ import annotations

from limbeck.recipe import ExplainSettings
from limbeck.records import Problem
from limbeck.stages.context import Context
from limbeck.stages.models import Question
from limbeck.stages.teacher import TeacherModel, teacher_system
from limbeck.tasks import explaining as prompt
from limbeck.tasks.asking import Asking
from limbeck.tasks.prompts import gold_of
from limbeck.tasks.templates import Template


def explaining_teacher(context: Context, settings: ExplainSettings) -> TeacherModel:
    """The teacher as it is asked for explanations; of its own prompt the system prompt alone counts."""
    template = settings.template or prompt.TEMPLATE
    named = "instruction" in Template.read(template, prompt.PLACES).names
    usual = prompt.instruction(context.kind, context.labels) if named else ""
    own = usual if settings.instruction is None else settings.instruction
    return TeacherModel(context, asking=Asking("plain", template, own, teacher_system(context.recipe)))


def to_explain(teacher: TeacherModel, problem: Problem) -> Question:
    """A problem with its gold answer, to be explained."""
    return Question(problem.id, problem.id, teacher.asking_now.pieces(problem, gold=gold_of(problem)))
