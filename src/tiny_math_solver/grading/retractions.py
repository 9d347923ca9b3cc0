"""Retractions: words with which a text takes back a number that it has given."""

import re

# What went wrong, in the first person: "I forgot the muffins"
_FAULTS = (
    r"forgot(?:ten)?|misread|misunderstood|misinterpreted|miscounted|miscalculated|miswrote|mistook|mistyped|mixed up"
    r"|overlooked|left out|missed|neglected|failed to|double.?counted|overcounted|undercounted|messed up|slipped up"
    r"|skipped|should(?: have|'ve)|(?:need|have|had)(?:ed)? to (?:correct|fix|redo|account|go back|revise)"
    r"|(?:did not|didn'?t|haven'?t|have not|had not|hadn'?t) (?:yet |even |actually |properly )?(?:account|subtract"
    r"|includ"
    r"|count|add|consider|multipl|divid|read|notic|tak|deduct|factor|convert|remember)\w*"
    r"|(?:made|see|found|spotted|notice[d]?|caught) an? (?:\w+ )?(?:mistake|error|slip|typo)|was wrong|got (?:that"
    r"|it|this) wrong"
    r"|(?:add|subtract|multipli|divid|count|calculat|round|read|us)ed (?:it |that |this |them )?(?:wrong|incorrectly"
    r"|twice"
    r"|instead|the wrong)|take (?:that|it|this) back|changed? my (?:mind|answer)|stand corrected|used the wrong"
)
# What is wrong with the number: "that can't be right"
_FLAWED = (
    r"\b(?:that|this|it|answer|above|result|total|number|calculation|\d)\)?(?:(?:'s| is| was| looks"
    r"| seems)(?: (?!not)\w+ly)?"
    r" (?:wrong|incorrect|off\b|mistaken|not (?:quite )?(?:right|correct)|too (?:high|low|large|small|many|much|few)|a"
    r" mistake|an error)|(?: isn'?t| wasn'?t| can'?t be| cannot be| can not be| couldn'?t be| doesn'?t (?:look|seem))"
    r" (?:quite )?(?:right|correct|the)\b)|\b(?:that|this|it)(?:'s| is| was) (?:not|without) (?:count|includ"
    r"|consider)ing|(?<!note: )(?<!note that )\b(?:this|that|it|which|the above)"
    r" (?:\w+ )?(?:overlooks?|ignores?|forgets?"
    r"|misses|omits?|leaves out|double.?counts?|overcounts?|does(?:n'?t| not) (?:include|count|subtract|consider"
    r"|account"
    r"|take)|fails? to|counts? [\w ]{1,20} twice)\b|\b(?:doesn'?t|does not) (?:add up|make sense|match up)"
)
FAULT = re.compile(
    r"(?<!if )(?<!did )(?<!that )(?<!hope )\b(?:i|we|i've|we've|i have|we have)(?: (?:just|also|still"
    r"|noticed (?:that )?i|think i"
    r"|reali[sz]ed? (?:that )?i"
    rf"|see i|actually))* (?:{_FAULTS})\b|(?:\A|[.!?;:,(\n-]) ?(?:oops |and |but )?(?:forgot|forgetting|miscounted"
    rf"|misread"
    rf"|miscalculated|missed|double.?counted)\b|{_FLAWED}",
    re.IGNORECASE,
)
# How a sentence that takes back begins: "Wait, ..."
_TURNS = (
    r"wait|nope|nah|second thoughts|not (?:quite|exactly|so fast|yet)|actually(?! (?:pretty|quite|very|fairly|rather))"
    r"|correction|corrected|no(?=\s?[,.:;!\u2013\u2014-])|no wait|oops|whoops"
    r"|sorry(?! for)"
    r"|apologies(?! for)|my apologies|hold on|hang on|scratch|strike that|on (?:second thought|further|closer"
    r"|reflection|review)"
    r"|thinking about it|looking (?:back|again)|let(?:'s| me| us) (?:recalc|recheck|re-check|recompute|redo|recount"
    r"|reconsider"
    r"|re-?read|revise|rework|re-?do|correct|fix|try (?:again|that)|start over|think again|re-?evaluate|re-?examine)\w*"
    r"|i (?:mean|meant)|my (?:bad|mistake|error)|never ?mind|disregard|ignore (?:that|this|the above|my)|edit(?=:)"
    r"|(?:just )?kidding|make (?:that|it) \W*\d|or (?:rather|better)|rather,|re-?(?:do|comput|calculat|count|check"
    r"|add|consider|evaluat|work)ing|recount"
    r"|recalculation|upon"
    r" (?:review|re|second|closer)\w*|after (?:re-?check|review|a second)\w*|i take|err+|hmm+|better:|more precisely"
    r"|to be (?:exact"
    r"|precise)|update:|amended|revised|fixed:|this should (?:be|read)|that should (?:be|read|have)|it should (?:be"
    r"|read) \W*\d"
)
RETRACTED = re.compile(
    r"(?:\A|[.!?;:,\n(*\u2026]|-\s|\u274c|\u2717)[^\w\n]*(?:(?:but|hmm+|oh|ah|uh|um|well|ok|okay|and|so|hey|also"
    r"|then)[\s,.!\u2026]+)*"
    rf"(?:{_TURNS})(?!\w)|{FAULT.pattern}"
    r"|\b(?:is|it's|that's|was|should) actually\b|\bi take (?:that|it|this) back|\btake (?:that|it) back",
    re.IGNORECASE,
)
WITHDRAWN = re.compile(  # even if nothing better follows
    rf"{FAULT.pattern}|\b(?:wrong|incorrect|mistake)\b|not (?:right|correct)|can'?t be (?:right|correct)"
    rf"|take (?:that|it) back"
    r"|\b(?:disregard|scratch that|strike that|never ?mind)\b|ignore (?:that|this|the above)",
    re.IGNORECASE,
)
