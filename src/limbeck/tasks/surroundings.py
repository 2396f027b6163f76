"""What stands around a question and asks for nothing else: its heading, how to answer, where the answer goes.

"Question 3 - " and "Answer the following question:" stand before one; "Let's think step by
step.", "(Answer with yes or no.)" and "Solution:" behind it. Only whole sentences at the
beginning and the end come off, and only those that these patterns read to their last word:
"Give your answer as a number." does, "Give your answer in metres." does not, because it is
another question than the one about feet.
"""

from __future__ import annotations

import re

LONGEST = 240
"""Characters of the longest sentence that comes off; it bounds the time, too."""


def bare(text: str) -> str:
    """A question without what stands before and behind it, however much that is; it keeps some text."""
    start, end = 0, len(text.rstrip())
    while (at := _before(text, start, end)) is not None and _ASKS.search(text, at, end):
        start = at
    while (at := _behind(text, start, end)) is not None and _ASKS.search(text, start, at):
        end = at
    return text[start:end]


_ASKS = re.compile(r"[^\W_]|[^\x00-\x7f]")
"""What may be a question."""


# --- before a question ---------------------------------------------------------


def _before(text: str, start: int, end: int) -> int | None:
    """Where the text goes on behind one heading or one sentence about answering."""
    if heading := _HEADING.match(text, start, end):
        return heading.end()
    first = _OPENING.match(text, start, end)
    if first is None:
        return None
    stop = _STOP_BEHIND.search(text, first.end(), min(end, start + LONGEST))
    return stop.end() if stop and _ABOUT_ANSWERING.fullmatch(_said(text[start : stop.start()])) else None


_NAMES = "question|query|problem|exercise|task|example|instruction|input|human|user"
_HEADING = re.compile(
    rf"""[\s*_\#>]*+(?:
        [\[(]?(?:q|{_NAMES})[\s*_]{{0,9}}(?:\(?\#?[0-9]{{1,6}}\)?)?[\s*_]{{0,9}}(?:[:.)\]]|\n)
      | (?:{_NAMES})\s?(?:\#?[0-9]{{1,6}}\s?[-\u2013\u2014](?=\s)|\s?[-\u2013\u2014](?=\s[^\W\d]))
      | q\s?\#?[0-9]{{1,6}}\s?[-\u2013\u2014](?=\s[^\W\d])
      | \(?[0-9]{{1,6}}[.)](?=\s+[^\W\d])
    )[\s*_]*""",
    re.IGNORECASE | re.VERBOSE,
)
"""What stands before a question: "Q:", "Question 12.", "Q3 - ", "### Question", "[Question]", "12)"."""

_STOP_BEHIND = re.compile(r"[:.!\n]+[\s*_]*")


# --- behind a question ---------------------------------------------------------


def _behind(text: str, start: int, end: int) -> int | None:
    """Where the text ends before one cue for an answer or one sentence about answering."""
    low = max(start, end - LONGEST)
    while end > low and text[end - 1].isspace():
        end -= 1
    at = _sentence_behind(text, low, end)
    if at is None and (cue := _CUE.search(text, max(low, end - 40), end)):
        at = cue.start()
    return at


def _sentence_behind(text: str, low: int, end: int) -> int | None:
    """Where the last sentence begins, if it is about answering; with a capital it may begin anywhere."""
    last = _LAST_SIGN.search(text, max(low, end - 20), end)
    words_end = stop = last.start() if last else end
    asks = "?" in text[words_end:end]
    stopped = False
    while not stopped:
        stop = max(text.rfind(sign, low, stop) for sign in _STOPS_BEFORE)
        stopped = stop < 0 or text[stop] not in "(["  # "Answer with (A) or (B)." goes on before a bracket
        if stop >= 0 and _is_option(text, low, stop):
            continue
        if stop >= 0 and _tells(text, stop + 1, end):
            return stop if text[stop] in "([" else stop + 1
        for capital in () if asks else _CAPITAL.finditer(text, max(low, stop + 1), words_end):
            if _tells(text, capital.start(), end):
                return capital.start()
    return None


def _tells(text: str, start: int, end: int) -> bool:
    """Whether this part of a text says how or where to answer, to its last word."""
    if not _OPENING.match(text, start, end):
        return False
    sentence = text[start:end]
    said, waits = _said(sentence), _WAITS.search(sentence)
    return bool(_ABOUT_ANSWERING.fullmatch(said) or (_ANSWER_HERE if waits else _ANSWER_IS).fullmatch(said))


def _is_option(text: str, low: int, stop: int) -> bool:
    """Whether an option goes on behind this sign: "E. Explain it.", "- Explain it."; "A:" is a cue."""
    before = text[text.rfind("\n", low, stop) + 1 : stop + 1].strip()
    return bool(_OPTION.fullmatch(before)) or bool(_BULLET.match(text, stop))


_OPTION = re.compile(r"[A-Za-z]\.|[b-zB-Z]:|[0-9]{1,2}[.:]")
_BULLET = re.compile(r"\n[^\S\n]*[-\u2022]\s")

_CAPITAL = re.compile(r"[A-Z](?<=\s.)")

_CUE = re.compile(r"[\s*_#]*\b(?:a|answer|response|assistant)[\s*_]*:[\s*_]*\Z", re.IGNORECASE)
"""These end any question, with or without a question mark before them."""

_STOPS_BEFORE = ".?!:\u2026\n(["
_LAST_SIGN = re.compile(r"\W+\Z")
_WAITS = re.compile(r":[\s*_]*\Z|\A\s*(?:[#*]|[^\[\]]*\]\Z)")
"""A line that waits for text: "Solution:", "## Solution", "[Solution]"."""


# --- sentences about answering -------------------------------------------------


def _said(sentence: str) -> str:
    """Its words in lower case, one space between them."""
    return " ".join(_WORD.findall(sentence.casefold().replace("\u2019", "'")))


_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def _some(words: str, most: int, least: int = 0) -> str:
    """So many of these words, which may be phrases with "_" for their spaces; none is given back."""
    phrases = sorted(words.split(), key=len, reverse=True)
    return rf"(?:(?:{'|'.join(phrases)})\b ?){{{least},{most}}}+".replace("_", " ")


_POLITE = _some(
    "please kindly now first then and also finally but so to by before after while just simply next "
    "can_you could_you will_you would_you you_should you_must you_need_to you_have_to try_to "
    "make_sure_to be_sure_to remember_to remember don't_forget_to i_want_you_to your_task_is_to all "
    "let's let_us take_a_deep_breath",
    6,
)
_KIND = _some(
    "the this that these my our your a an each any following given above below next provided simple "
    "short math maths mathematical mathematics arithmetic algebra word story reasoning commonsense "
    "common_sense logic logical multiple_choice multi_step grade_school elementary yes_no yes_or_no "
    "true_or_false open_ended science medical trivia exam test",
    8,
    least=1,
)
_QUESTION = (
    rf"{_KIND}(?:question|problem|exercise|task|query|puzzle|riddle)s?\b ?{_some('above below here', 1)}"
)
_IT = rf"(?:{_QUESTION}|(?:the following|it|this)\b ?)"
_HOW = _some(
    "about it this that over through out again deeply hard carefully logically slowly clearly "
    "thoroughly loud critically aloud step_by_step step steps by in into a an the way manner problem "
    "question task exercise to be sure we you have get one at time first before_answering "
    "before_you_answer your_answer the_answer the_right_answer the_correct_answer your_reasoning",
    18,
)
_AS = _some(
    "with as in by using within inside on after at only just simply either one single a an the of your "
    "word words number numbers numeral numerical numeric integer digit digits letter letters option "
    "options choice choices yes no true false or and not nothing else correct right best final answer "
    "value phrase sentence short brief full complete exact directly briefly concisely shortly clearly "
    "succinctly form format boxed box line end tags between given provided listed available above "
    "below following possible without any explanation explaining reasoning further additional text b c "
    "d e f g h alone it itself them these those",
    18,
)
_OWN = _some(
    "short brief final numerical numeric correct right exact best single complete full detailed clear "
    "concise one_word step_by_step own",
    4,
)
_MY_ANSWER = (
    rf"(?:(?:(?:your|a|an|the)\b ?)?{_OWN}(?:answer|reasoning|rationale|explanation|justification)s?|"
    rf"(?:your|a|an)\b ?{_OWN}(?:response|reply|solution|conclusion)|"
    rf"(?:all )?(?:of )?(?:your)\b ?{_OWN}(?:work|workings?|steps|calculations?|thinking|thoughts?)|"
    r"(?:your|the) (?:thought process|chain of thought)|all (?:the )?(?:steps|work|workings?)|"
    r"(?:only|just) (?:the|one|a) (?:final |single |correct )*(?:letter|number|option|choice))\b ?"
)
_CLAUSES = (
    r"below is an instruction that describes a task(?: paired with an input that provides further context)?",
    r"write a response that appropriately completes the request",
    rf"(?:think|thinking|reason|reasoning)\b ?{_HOW}",
    r"(?:work|solve|go|proceed|break|walk|do|tackle|approach|explain|answer|respond|reply|calculate|show)\b ?"
    rf"(?:on )?(?:{_IT}|{_MY_ANSWER})?(?:(?:out|through|down|over)\b ?)?(?:in (?:a )?)?"
    rf"(?:step by step|(?:in|into) steps|carefully|logically)\b ?{_HOW}",
    rf"(?:answer|answering|respond|responding|reply) (?:to )?(?:{_IT}{_AS}|(?=\w){_AS})",
    rf"(?:solve|solving) {_IT}{_AS}",
    r"(?:give|giving|provide|providing|write|state|return|output|express|report|submit|put|present|enter|"
    r"print|format|show|end with|finish with|conclude with|include|explain|explaining|justify|describe|"
    rf"outline|detail|support)\b ?{_some('me us out down with', 3)}"
    rf"(?:{_MY_ANSWER}|(?:only|just) {_MY_ANSWER}){_AS}",
    r"(?:show|explain) how you (?:got|found|reached|know|came|arrived)\b ?(?:at |to )?"
    rf"(?:{_MY_ANSWER}|it|this|that)?",
    r"(?:explain|justify)(?: why| briefly)?(?=$| and| then)",
    r"(?:your|the) (?:final )?(?:answer|response) (?:should|must|has to|needs to|can only) "
    rf"(?:only )?be {_AS}",
    r"(?:choose|select|pick) (?:only )?(?:the|one|a|an)\b ?(?:single |most )?(?:correct|right|best|"
    rf"appropriate|suitable) (?:answer|option|choice|alternative|response|letter)\b ?{_AS}",
    rf"(?:read|consider|look at|study|review) {_IT}{_some('carefully closely attentively', 2)}",
    r"(?:given|considering|here is|here's|here are|below is|below are|the following is|the following are|"
    rf"i have|you are given|you will be given) {_QUESTION}"
    r"(?:and (?:its |the |some )?(?:answer )?(?:options|choices) ?)?",
    "solve",
    r"(?:(?<=please )|(?<=and )|(?<=then ))(?:answer|respond|reply)(?: correctly)?",
)
_ABOUT_ANSWERING = re.compile(rf"(?:{_POLITE}(?>{'|'.join(_CLAUSES)}) ?){{1,5}}+{_POLITE}")
"""A sentence that says how to answer, in the words of `_said`."""

_ANSWER_IS = re.compile(
    r"(?:(?:so|therefore|thus|hence) )?(?:the|your|my) (?:(?:final|correct|right|best) )*answer"
    r"(?: to (?:the|this) question)? is"
)
_ANSWER_HERE = re.compile(
    rf"{_ANSWER_IS.pattern}|(?:(?:the|your|my|final|correct|right|model|step by step) )*(?:a|ans|answer|"
    r"output|solution|reasoning|rationale|response|reply|explanation|assistant|thoughts?|thinking|"
    r"chain of thought|completion|conclusion|result|work|working)"
)

_OPENING = re.compile(
    r"\W{0,9}(?:"
    r"please|kindly|now|first|then|so|can|could|will|would|you|make|be|remember|let|take|try|think|"
    r"reason|work|solve|go|proceed|break|walk|tackle|approach|do|answer|respond|response|reply|give|"
    r"provide|write|state|return|output|express|report|submit|put|present|enter|explain|justify|"
    r"describe|show|choose|select|pick|read|consider|look|study|review|given|considering|here|below|the|"
    r"your|i|my|therefore|thus|hence|final|correct|right|model|step|a|ans|solution|reasoning|rationale|"
    r"explanation|assistant|thoughts?|thinking|chain|completion|conclusion|result|working|all|just|only|"
    r"before|after|by|while|and|also|finally|but|to|don['\u2019]t|answering|in|explaining"
    r")\b",
    re.IGNORECASE,
)
"""First words of such sentences and cues; most sentences are set aside by this alone."""
