"""Retractions: words with which a text takes back a number that it has given."""

from tiny_math_solver.grading.cues import FILLER, any_of, cue

# Words that correct, wherever they stand: "20, no wait, 18"
_TURNS = any_of(r"""
    wait|actually(?! (pretty|quite|very|fairly|rather))|correction|corrected|no(?=\s?[,.:;!\u2013\u2014-])|no wait
    sorry(?! for)|i (mean|meant)|oops|whoops|(just )?kidding|edit(?=:)|scratch|strike that|never ?mind|disregard
    take (that|it) back|ignore (that|this|the above|my)|hold on|hang on|hmm+|or (rather|better)|my (bad|mistake|error)
""")
# Words that correct if a sentence or clause begins with them
_OPENINGS = any_of(r"""
    nope|nah|second thoughts|not (quite|exactly|so fast|yet)|apologies(?! for)|my apologies|thinking about it|err+
    on (second thought|further|closer|reflection|review)|looking (back|again)|i take|better:|more precisely|rather,
    let('s| me| us) re-?(calc|check|compute|do|count|consider|read|vise|work|evaluate|examine)\w*|recalculation|update:
    let('s| me| us) (correct|fix|try (again|that)|start over|think again)\w*|to be (exact|precise)|amended|revised
    re-?(do|comput|calculat|count|check|add|consider|evaluat|work)ing|recount|make (that|it) \W*\d|fixed:
    upon (review|re|second|closer)\w*|after (re-?check|review|a second)\w*|this should (be|read)
    that should (be|read|have)|it should (be|read) \W*\d
""")
_WRONG = r"(?:wrong|incorrect|mistake|not (?:right|correct)|can'?t be (?:right|correct))"
_MENDS = rf"(?:{_TURNS}|{_WRONG}|should (?:be|have been)|round(?:s|ed|ing)? (?:up |down |off )?(?:to|it)"
CORRECTED = cue(rf"\b{_MENDS}|rather(?! than)|instead(?! of))(?!\w)")
# All that stands between a number and the one that replaces it
CORRECTS = cue(
    rf"[^\d.]{{0,12}}?(?:(?:[\s,;:.!?(\u2026~]|-)*\b{_MENDS}(?: to)?|make (?:that|it)|rather|er+m?|um+|uh+)(?!\w)"
    rf"(?:[\s,;:.!?(*]|-|\b{FILLER}\b)*)+"
)

_INCLUDE = r"(?:account|subtract|includ|count|add|consider|multipl|divid|read|notic|tak|deduct|factor|convert|remember)"
_DONE = r"(?:add|subtract|multipli|divid|count|calculat|round|read|us)ed"
# What went wrong, in the first person: "I forgot the muffins"
_FAULTS = any_of(rf"""
    forgot(ten)?|misread|misunderstood|misinterpreted|miscounted|miscalculated|miswrote|mistook|mistyped|mixed up
    overlooked|left out|missed|neglected|failed to|double.?counted|overcounted|undercounted|messed up|slipped up|skipped
    should( have|'ve)|(need|have|had)(ed)? to (correct|fix|redo|account|go back|revise)|was wrong|stand corrected
    (did not|didn'?t|haven'?t|have not|had not|hadn'?t) (yet |even |actually |properly )?{_INCLUDE}\w*
    (made|see|found|spotted|noticed?|caught) an? (\w+ )?(mistake|error|slip|typo)|got (that|it|this) wrong
    {_DONE} (it |that |this |them )?(wrong|incorrectly|twice|instead|the wrong)
    take (that|it|this) back|changed? my (mind|answer)
""")
_IT = r"\b(?:that|this|it|answer|above|result|total|number|calculation|\d)\)?"
_WHICH = r"(?<!note: )(?<!note that )\b(?:this|that|it|which|the above)"
# What is wrong with the number: "that can't be right"
_FLAWED = any_of(rf"""
    {_IT}('s| is| was| looks| seems)( (?!not)\w+ly)? (wrong|incorrect|off\b|mistaken|a mistake|an error)
    {_IT}('s| is| was| looks| seems)( (?!not)\w+ly)? (not (quite )?(right|correct)|too (high|low|large|small|many|few))
    {_IT} (isn'?t|wasn'?t|(can'?t|cannot|can not|couldn'?t) be|doesn'?t (look|seem)) (quite )?(right|correct|the)\b
    \b(that|this|it)('s| is| was) (not|without) (count|includ|consider)ing
    \b(doesn'?t|does not) (add up|make sense|match up)
    {_WHICH} (\w+ )?(overlooks?|ignores?|forgets?|misses|omits?|leaves out|fails? to|double.?counts?|overcounts?)\b
    {_WHICH} (\w+ )?(counts? [\w ]{{1,20}} twice|does(n'?t| not) {_INCLUDE})
""")
_I = r"(?:i|we)(?:'ve| have)?(?: (?:just|also|still|actually|(?:noticed|think|see|reali[sz]ed?)(?: that)? i))*"
FAULT = cue(
    rf"(?<!if )(?<!did )(?<!that )(?<!hope )\b{_I} {_FAULTS}\b|{_FLAWED}"
    r"|(?:\A|[.!?;:,(\n-]) ?(?:oops |and |but )?(?:forgot|forgetting|miscounted|misread|miscalculated|missed"
    r"|double.?counted)\b"
)
RETRACTED = cue(
    r"(?:\A|[.!?;:,\n(*\u2026]|-\s|\u274c|\u2717)[^\w\n]*(?:(?:but|hmm+|oh|ah|uh|um|well|ok|okay|and|so|hey|also"
    rf"|then)[\s,.!\u2026]+)*(?:{_TURNS}|{_OPENINGS})(?!\w)|{FAULT.pattern}"
    r"|\b(?:is|it's|that's|was|should) actually\b|\b(?:i )?take (?:that|it|this) back"
)
# Words that withdraw a number even if nothing better follows
WITHDRAWN = cue(rf"{FAULT.pattern}|\b(?:{_WRONG}|disregard|scratch that|strike that|never ?mind|take (?:that|it) back"
                r"|ignore (?:that|this|the above))\b")  # fmt: skip
