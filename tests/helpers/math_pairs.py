# ruff: noqa: E501
r"""Pairs of a gold and an answer, written in the styles of competition problems, and whether the answer is right."""

# gold ; answers that are right | answers that are wrong, one gold a line, answers apart by `;`
TABLE = r"""
\frac{1}{2} ; 1/2 ; 0.5 ; \dfrac{1}{2} ; \frac12 ; \frac{2}{4} | 2 ; \frac{1}{3} ; -\frac{1}{2}
\frac{3}{4} ; 0.75 ; \tfrac{3}{4} ; 3/4 ; \frac{6}{8} | \frac{4}{3} ; 0.34 ; 34
-\frac{2}{3} ; \frac{-2}{3} ; -2/3 ; -\dfrac23 | \frac{2}{3} ; -\frac{3}{2}
\frac{22}{7} ; 22/7 ; 3\frac{1}{7} | \pi ; 3.14
7 ; 7.0 ; \text{7} ; \frac{14}{2} ; $7$ | 8 ; -7 ; 70 ; 0.7
-5 ; -5.00 ; - 5 | 5 ; \frac{1}{5}
1{,}000 ; 1000 ; 1,000 ; 10^3 | 100 ; 10000 ; 1.000
12345 ; 12,345 ; 12345.0 | 12346 ; 1,234
0 ; 0.0 ; \frac{0}{5} | 1 ; \emptyset
2\sqrt{3} ; \sqrt{12} ; 2 \sqrt 3 ; 2\cdot\sqrt{3} | 3\sqrt{2} ; \sqrt{6} ; 2\sqrt{2}
\frac{\sqrt{2}}{2} ; \frac{1}{\sqrt{2}} ; \frac{\sqrt2}{2} | \sqrt{2} ; \frac{\sqrt{3}}{2}
1+\sqrt{5} ; \sqrt{5}+1 ; \sqrt5 + 1 | 1-\sqrt{5} ; \sqrt{6}
\sqrt[3]{4} ; 4^{1/3} ; 2^{2/3} | \sqrt{4} ; \sqrt[3]{2}
\frac{1+\sqrt{5}}{2} ; \frac{\sqrt{5}+1}{2} ; \frac12 + \frac{\sqrt5}{2} | \frac{1-\sqrt{5}}{2} ; 1.6
5\pi ; 5 \pi ; \pi \cdot 5 | 5 ; \frac{5}{\pi} ; 25\pi
\frac{\pi}{4} ; \pi/4 ; \frac{1}{4}\pi | \frac{\pi}{2} ; 45
36\pi - 9\sqrt{3} ; -9\sqrt{3} + 36\pi ; 9(4\pi-\sqrt{3}) | 36\pi + 9\sqrt{3} ; 27\pi
e^2 ; e^{2} ; \exp(2) | 2e ; e
\ln 2 ; \ln(2) ; \ln{2} | \ln 3 ; 2
\log_2 3 ; \log_{2}{3} ; \frac{\ln 3}{\ln 2} | \log_3 2 ; \frac{\ln 2}{\ln 3}
2^{10} ; 1024 | 20 ; 1025
6! ; 720 | 120 ; 6
\binom{5}{2} ; 10 | 20 ; 25
3\times 10^{8} ; 300000000 ; 3 \cdot 10^8 | 3\times 10^{7} ; 30
90^\circ ; 90 ; 90^{\circ} ; 90 \text{ degrees} | 45^\circ ; 180^\circ
10\% ; 10 ; 10 \% ; 10\text{ percent} | 11\% ; 20
\$32.50 ; 32.50 ; \$32.5 ; 32.5 | \$32 ; 3250
15\text{ cm} ; 15 ; 15\text{cm} ; 15 \mathrm{~cm} | 16\text{ cm} ; 1.5
24 \text{ square units} ; 24 ; 24\text{ units}^2 | 12
x+3 ; 3+x ; x + 3 | x-3 ; x+4 ; 3x
x^2+2x+1 ; (x+1)^2 ; 1+2x+x^2 | (x-1)^2 ; x^2+1
(x-2)(x+3) ; x^2+x-6 ; (x+3)(x-2) | (x+2)(x-3) ; x^2-x-6
6x^2-x-2 ; -x+6x^2-2 ; (2x+1)(3x-2) | 6x^2+x-2
\frac{x+1}{x-1} ; \frac{1+x}{x-1} ; 1+\frac{2}{x-1} | \frac{x-1}{x+1}
\frac{a+b}{2} ; \frac{1}{2}(a+b) ; \frac{a}{2}+\frac{b}{2} | \frac{a-b}{2} ; a+b
2n-1 ; -1+2n ; 2(n-1)+1 | 2n+1 ; n-1
x=5 ; 5 ; x = 5 | x=6 ; 6
y=2x+3 ; y = 3+2x ; y=3 + 2x | y=2x-3 ; y=3x+2
x^2+y^2=25 ; y^2+x^2=25 | x^2+y^2=5
(3,4) ; (3, 4) ; \left(3,4\right) | (4,3) ; (3,5) ; 3
(-1,2,0) ; (-1, 2, 0) ; \left( -1, 2, 0 \right) | (1,2,0) ; (-1,2)
\left(\frac{1}{2},-3\right) ; (0.5,-3) ; \left(\frac12, -3\right) | \left(-3,\frac{1}{2}\right)
(2,\infty) ; (2, \infty) ; \left(2,\infty\right) | [2,\infty) ; (-\infty,2)
[0,1] ; [0, 1] ; \left[0,1\right] | (0,1) ; [0,1) ; [0,2]
(-\infty,3] ; (-\infty, 3] ; \left(-\infty,3\right] | (-\infty,3) ; [3,\infty)
(-\infty,-1)\cup(1,\infty) ; (1,\infty)\cup(-\infty,-1) | (-\infty,-1]\cup[1,\infty) ; (-1,1)
\{1,2,3\} ; \{3,2,1\} ; \left\{1,2,3\right\} ; 1,2,3 | \{1,2\} ; \{1,2,4\}
1,-2 ; -2,1 ; -2, 1 | 1,2 ; 1
2, 3, 5 ; 5,3,2 ; 2,3,5 | 2,3 ; 2,3,7
\pm 4 ; 4,-4 ; -4, 4 | 4 ; \pm 2
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} ; \begin{pmatrix}1&2\\3&4\end{pmatrix} ; \begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix} | \begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}
\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix} ; \begin{pmatrix}-7\\16\\5\end{pmatrix} | \begin{pmatrix} 7 \\ 16 \\ 5 \end{pmatrix}
3+4i ; 4i+3 ; 3 + 4 i | 3-4i ; 7
-i ; -1i ; 0-i | i ; 1
\frac{1}{2}+\frac{\sqrt{3}}{2}i ; \frac{1+\sqrt{3}i}{2} | \frac{1}{2}-\frac{\sqrt{3}}{2}i
x \ge 3 ; x\geq 3 ; 3\le x | x>3 ; x\le 3
-2 < x < 5 ; -2<x<5 | -2<x<4
\sin x ; \sin(x) | \cos x ; \sin 2x
\sin^2 x ; (\sin x)^2 ; 1-\cos^2 x | \sin x
\cos 60^\circ ; \frac{1}{2} ; 0.5 | 0.87
\tan\theta ; \tan(\theta) ; \frac{\sin\theta}{\cos\theta} | \cot\theta
2\frac{1}{2} ; \frac{5}{2} ; 2.5 | 1 ; \frac{2}{2}
0.1\overline{6} ; \frac{1}{6} | 0.16
11 \text{ minutes} ; 11 | 12
\text{(B)} ; B ; \text{B} ; (B) | A ; \text{(C)}
\text{even} ; even ; \text{even} | odd ; \text{neither}
\text{Wednesday} ; Wednesday | Thursday
-\frac{1}{x^2} ; \frac{-1}{x^2} ; -x^{-2} | \frac{1}{x^2}
a^3b^2 ; b^2 a^3 ; a^3 \cdot b^2 | a^2b^3
\frac{n(n+1)}{2} ; \frac{n^2+n}{2} ; \frac{1}{2}n(n+1) | \frac{n(n-1)}{2}
2^n ; 2^{n} | n^2 ; 2n
\lfloor 3.7 \rfloor ; 3 | 4
|x-2| ; \left|x-2\right| | x-2 ; |x+2|
\lceil 3.2 \rceil ; 4 | 3
0.\overline{12} ; \frac{4}{33} ; \frac{12}{99} | 0.12
\tan 45^\circ ; 1 | 45
\frac{5}{12} ; 5/12 ; \frac{10}{24} | \frac{12}{5} ; 5
7\sqrt{2}\text{ inches} ; 7\sqrt{2} ; 7 \sqrt{2} | 7 ; 14\sqrt{2}
\frac{7}{2}\text{ hours} ; 3.5 ; \frac{7}{2} | 7
"""


def pairs() -> list[tuple[str, str, bool]]:
    """`(gold, answer, is right)` of each pair."""
    found = []
    for line in TABLE.strip().splitlines():
        right, _, wrong = line.partition(" | ")
        gold, *same = right.split(" ; ")
        found += [(gold.strip(), answer.strip(), True) for answer in same]
        found += [(gold.strip(), answer.strip(), False) for answer in wrong.split(" ; ")]
    return found
