"""The steps that methods share; each is a restartable folder of a run.

A method is the order in which it calls these. The verbs are `train`, `write` and `examine`;
`problems`, `rationales`, `mentor`, `soft_labels` are what they work on. Importing this loads no torch.
"""

from limbeck.stages.context import Context
from limbeck.stages.examining import accuracy, examine
from limbeck.stages.feedback import (
    FeedbackSettings,
    Tailored,
    check_feedback,
    feedback,
    files_of,
    waits_for_feedback,
)
from limbeck.stages.grounded import (
    Reader,
    answered_data,
    check_reads,
    grounded_data,
    read_in_exam,
    reads_passages,
)
from limbeck.stages.knowledge import knowledge, silver_passages
from limbeck.stages.learners import Learner, Trained, Untrained, student
from limbeck.stages.mentors import examine_mentor, mentor, mentor_rationales, new_rationales, taught
from limbeck.stages.mistakes import Mistakes, TrainExamSettings, check_gold, mistakes
from limbeck.stages.models import Model, Question
from limbeck.stages.passages import Finder, TrainFinder, found_passages
from limbeck.stages.problems import Problems, Split, problems
from limbeck.stages.rationales import (
    Picked,
    Rationales,
    answer_examples,
    by_problem,
    file_inputs,
    grade_completions,
    graded_rationales,
    rationale_data,
    rationale_examples,
    rationales,
)
from limbeck.stages.reflection import ReflectionSettings, reflection, reflection_data
from limbeck.stages.reranker import reranker
from limbeck.stages.soft_labels import SoftLabelSettings, soft_labels
from limbeck.stages.training import Data, cross_entropy, is_trained, train
from limbeck.stages.writing import completions_of, write
from limbeck.training.groups import Draw, Group, singles

__all__ = [
    "Context",
    "Data",
    "Draw",
    "FeedbackSettings",
    "Finder",
    "Group",
    "Learner",
    "Mistakes",
    "Model",
    "Picked",
    "Problems",
    "Question",
    "Rationales",
    "Reader",
    "ReflectionSettings",
    "SoftLabelSettings",
    "Split",
    "Tailored",
    "TrainExamSettings",
    "TrainFinder",
    "Trained",
    "Untrained",
    "accuracy",
    "answer_examples",
    "answered_data",
    "by_problem",
    "check_feedback",
    "check_gold",
    "check_reads",
    "completions_of",
    "cross_entropy",
    "examine",
    "examine_mentor",
    "feedback",
    "file_inputs",
    "files_of",
    "found_passages",
    "grade_completions",
    "graded_rationales",
    "grounded_data",
    "is_trained",
    "knowledge",
    "mentor",
    "mentor_rationales",
    "mistakes",
    "new_rationales",
    "problems",
    "rationale_data",
    "rationale_examples",
    "rationales",
    "read_in_exam",
    "reads_passages",
    "reflection",
    "reflection_data",
    "reranker",
    "silver_passages",
    "singles",
    "soft_labels",
    "student",
    "taught",
    "train",
    "waits_for_feedback",
    "write",
]
