"""The same value in many spellings is right, and a different value is wrong however alike it looks."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from aha.rewards.contract import Completion, Problem, Score
from aha.rewards.load import load_reward
from aha.rewards.scorer import Scorer

CASES: dict[str, tuple[list[str], list[str]]] = {
    r"\frac{1}{2}x": (
        [r"\frac{x}{2}", "0.5x", "x/2", r"\tfrac12 x", "½x"],
        [r"\frac{2}{x}", "x", "2x"],
    ),
    "x^2-1": (
        ["(x-1)(x+1)", "(x+1)(x-1)", "-1+x^2", "x^{2} - 1", "x²-1", "x**2-1"],
        ["x^2+1", "(x-1)^2", "1-x^2"],
    ),
    "|x|": (
        [r"\sqrt{x^2}", r"\left|x\right|", r"\lvert x \rvert", "|-x|"],
        ["x", "-x"],
    ),
    "2^{n+1}": (
        [r"2\cdot 2^n", r"2^n \cdot 2", r"2 \times 2^{n}"],
        ["2^{n-1}", "4^n"],
    ),
    "1": (
        [
            r"\sin^2 x+\cos^2 x",
            r"\frac{x}{x}",
            "x^0",
            "e^0",
            "0!",
            r"\tan 45^\circ",
            r"\sin 90°",
            r"\log_5 5",
            r"\lim_{x\to 0}\frac{\sin x}{x}",
            r"\int_0^1 2x\,dx",
            "1.0",
            r"100\%",
            r"\lceil 0.3\rceil",
        ],
        ["-1", "0", "x", r"1\%", r"\sin x"],
    ),
    r"\sin 2x": (
        [r"2\sin x\cos x", r"\sin(2x)", r"2 \sin(x) \cos(x)"],
        [r"2\sin x", r"\sin^2 x"],
    ),
    r"\frac{n(n-1)}{2}": (
        [r"\binom{n}{2}", r"\frac{n^2-n}{2}", r"{n \choose 2}"],
        [r"\frac{n(n+1)}{2}", "n(n-1)"],
    ),
    "2": (
        [r"5 \bmod 3", r"\log_{10} 100", r"\sqrt[3]{8}", "|{-2}|", r"\lg 100", r"\max(1,2)"],
        ["3", "2 ab", r"2\text{ }x", r"2\text{ cm}x"],
    ),
    "e^x": (
        [r"\exp(x)", r"\exp x", "e^{x}", r"\mathrm{e}^x"],
        ["x^e", "e^2"],
    ),
    r"\sqrt{xy}": (
        [r"\sqrt{x}\sqrt{y}", "(xy)^{1/2}"],
        ["xy", r"\sqrt{x}+\sqrt{y}"],
    ),
    r"\log_2 3": (
        [r"\frac{\ln 3}{\ln 2}", r"\frac{\log 3}{\log 2}", r"\log_{2}{3}", r"\log_2(3)"],
        ["1.585", r"\log_2 9"],
    ),
    "1-x": (
        ["-(x-1)", "-x+1"],
        ["x-1"],
    ),
    r"3 \pmod{5}": (
        [r"3 \bmod 5", "3 (mod 5)", r"8 \pmod 5", r"3 \text{ mod } 5", r"x \equiv 3 \pmod{5}"],
        [r"2 \pmod 5", r"3 \pmod 6"],
    ),
    "a_n": (
        ["a_{n}"],
        ["a_m", "a"],
    ),
    r"\alpha\beta": (
        ["βα", r"\beta \alpha"],
        [r"\alpha+\beta"],
    ),
    "xy+xz": (
        ["x(y+z)"],
        ["xy+z"],
    ),
    r"\frac{x^2-1}{x-1}": (
        ["x+1"],
        ["x-1"],
    ),
    "2ab": (
        ["ab2", "2 a b", r"2a\times b", r"2 \, a \, b", "2(ab)", "2 ab"],
        ["2a", "ab", "2abc", "2a+b", "2"],
    ),
    "n!": (
        ["n(n-1)!", "n!"],
        ["(n-1)!"],
    ),
    r"\ln|x|+C": (
        [r"\ln |x| + c", r"\ln\left|x\right|+C", r"C+\ln|x|"],
        [r"\ln|x|", r"\ln x+C", r"\frac1x+C"],
    ),
    r"2\ln x": ([r"\ln x^2", r"\ln(x\cdot x)"], [r"\ln 2x", r"(\ln x)^2"]),
    r"\sec^2 x": (
        [r"1+\tan^2 x", r"\frac{1}{\cos^2 x}"],
        [r"\sec x"],
    ),
    "2xe^{x^2}": (
        ["2x e^{x^2}", r"e^{x^2}\cdot 2x", r"2x\exp(x^2)"],
        ["e^{x^2}", "2xe^{2x}"],
    ),
    r"\infty": (
        [r"+\infty", "∞", r"\text{infinity}", r"\infty"],
        [r"-\infty", "1000000", r"\text{DNE}"],
    ),
    r"\text{DNE}": (
        [r"\text{does not exist}", "does not exist", r"\text{undefined}"],
        ["0", r"\infty"],
    ),
    r"\arctan x": (
        [r"\tan^{-1} x", r"\tan^{-1}(x)", r"\operatorname{arctan}(x)", r"\text{arctan}(x)"],
        [r"\cot x", r"\frac{1}{\tan x}"],
    ),
    r"\frac{x^3}{3}+C": (
        [r"\frac{x^3}{3} + K", "C + x^3/3"],
        [r"\frac{x^3}{3}", "x^3+C"],
    ),
    r"2\ln 2": (
        [r"\ln 4", r"\ln(4)", r"\log 4"],
        [r"\ln 2"],
    ),
    r"\frac{\pi}{4}": (
        [r"\pi/4", r"0.25\pi", "π/4", r"45^\circ", r"\frac{1}{4}\pi"],
        ["0.785", "0.7853981633974483"],
    ),
    "e^2": (
        [],
        ["7.389", "2e"],
    ),
    r"\cosh x": (
        [r"\frac{e^x+e^{-x}}{2}"],
        [r"\sinh x"],
    ),
    "f'(x)=2x": (
        ["2x", "f'(x) = 2x"],
        ["x^2"],
    ),
    r"\frac{1}{1+x^2}": (
        ["(1+x^2)^{-1}", r"\frac{1}{x^2+1}"],
        [r"\frac{1}{1-x^2}"],
    ),
    "A": (
        [
            "(A)",
            "A)",
            "A.",
            r"\text{A}",
            r"\text{(A)}",
            r"\mathrm{A}",
            "Option A",
            r"\text{Option A}",
            "choice A",
            "a",
            r"\textbf{A}",
            "A) 12",
            "(A) 12",
            r"\textbf{(A) }12",
            "A: yes",
            r"\mathbf{(A)}",
            "answer: A",
            "[A]",
        ],
        [
            "B",
            "AB",
            "A or B",
            "A, B",
            "not A",
            r"\text{not A}",
            r"A \text{ or } B",
            "1",
            "neither",
            "A B",
            "AA",
            r"\text{A and B}",
            "all of the above",
            "-A",
        ],
    ),
    "E": (
        ["E", "(E)"],
        ["2.718", r"\exp(1)"],
    ),
    "ABD": (
        ["A, B, D", "A,B,D", r"\text{ABD}"],
        ["AD", "BD", "ABDE"],
    ),
    "3+4i": (
        ["4i+3", r"3 + 4\mathrm{i}", "i(4-3i)", "3+i4", "3+4 i", "(2+i)^2"],
        ["4+3i", "5", "-3-4i", "3+4"],
    ),
    "i": (
        [r"\sqrt{-1}", "i"],
        ["-i", "1"],
    ),
    "2i": (
        ["(1+i)^2", r"2\cdot i"],
        ["2", "-2i"],
    ),
    r"-\frac{1}{2}+\frac{\sqrt{3}}{2}i": (
        [r"\frac{-1+i\sqrt{3}}{2}", r"e^{2\pi i/3}", r"\cos\frac{2\pi}{3}+i\sin\frac{2\pi}{3}"],
        [r"\frac{-1-i\sqrt{3}}{2}"],
    ),
    r"1 \pm i": (
        ["1+i, 1-i", r"1-i \text{ and } 1+i", r"\{1+i,1-i\}"],
        ["1+i", r"\pm i"],
    ),
    r"\$5": (
        ["5", r"\$5.00", "5 dollars", r"5\text{ dollars}", "$5$"],
        ["€5", r"\text{£}5", r"\$50", "6"],
    ),
    "18.90": (
        ["18.9", r"\$ 18.90", "18.90 dollars"],
        ["18.91"],
    ),
    "1500": (
        ["1,500", r"\$1,500", r"\$1,500.00", "1500 dollars"],
        ["1.500", "15,00", "150"],
    ),
    r"\emptyset": (
        [
            r"\varnothing",
            r"\{\}",
            "∅",
            r"\text{no solution}",
            "no solutions",
            r"\text{There are no solutions}",
            r"\text{No real solutions}",
            r"\text{none}",
            r"\left\{\right\}",
        ],
        ["0", r"\{0\}", r"\{\emptyset\}", "1"],
    ),
    r"\text{no solution}": (
        [r"\emptyset", "No solution", "no real solution"],
        ["0", "x=0"],
    ),
    "y=2x+1": (
        ["y-1=2x", "2y=4x+2", "y-2x=1", "y - 2x - 1 = 0", "2x+1", "y=1+2x", r"y = 2(x+\frac12)"],
        ["y=2x-1", "y=2x", "2x-1", "y=-2x+1", "1=1", "0=0", "y=y"],
    ),
    "x=5": (
        ["5", "x = 5", "5=x", "x=5.0", "x=10/2", r"\{5\}"],
        ["y=5", "x=-5", "6", "x=x"],
    ),
    "x^2+y^2=25": (
        ["y^2+x^2=25", "x^2+y^2-25=0", "25=x^2+y^2", "2x^2+2y^2=50"],
        ["x^2-y^2=25", "x^2+y^2=-25", "x+y=5"],
    ),
    "f(x)=x^2": (
        [
            r"f(x) = x \cdot x",
            "f(t)=t^2",
            "x^2",
            r"f(x)=x^2 \text{ for all } x",
            r"f(x)=x^2 \text{ for all } x \in \mathbb{R}",
            r"f(x)=x^2, \forall x \in \mathbb{R}",
        ],
        ["f(x)=x^3", "x^3", "f(x)=2x", r"f(x)=2x \text{ for all } x", r"f(x)=x^2 \text{ for all } x > 0"],
    ),
    "5": (
        [
            "x=5",
            "5=x",
            "n = 5",
            "x_1 = 5",
            "2+3=5",
            "2+3",
            "x=2+3=5",
            r"\text{Area}=5",
            "|AB|=5",
            "AB=5",
            "f(2)=5",
            r"\approx 5",
            "=5",
            r"\angle A = 5",
            "P(A) = 5",
            "five",
            r"\text{five}",
            "5.000",
            r"\frac{10}{2}",
            r"\sqrt{25}",
            "5!/4!",
            "5+x-x",
            r"5 \cdot 1",
            "a+b=5",
            r"5 \approx 5.0",
        ],
        [
            "1=2=3=4=5",
            "x+1=5",
            "x>5",
            "6=5",
            "x=5, y=6",
            r"x \neq 5",
            "2x=5",
            "-5",
            "5=6",
            "5!",
            "5.0000001",
            r"\text{six}",
            "50%",
            "5%",
            r"5 \text{ or } 6",
            "5,6",
            "5 or 6",
            r"\{5,6\}",
            "[0,10]",
            "(0,10)",
            "x",
            r"\text{correct}",
            r"\text{the answer}",
            "5i",
            "5+0.0001",
            r"5\pm1",
            r"5 \text{ or maybe 6}",
            r"\text{any number}",
            r"5\ldots",
            "5?",
            "?",
            "5x",
            "5'",
            "5-",
            "not 5",
            r"\neg 5",
            r"5 \text{ is wrong}",
            "anything",
            r"\sqrt{}",
            r"\frac{5}{0}",
            r"\infty-\infty+5",
            r"5\cdot\infty",
            r"4.\overline{8}",
            r"\mathbb{R}",
            r"x=5 \text{ or } x=6",
            r"\text{not }5",
            r"5 \approx 6",
            r"5 \approx 50",
            "x^2=5",
            "x-y=5",
            "a+b=6",
            "m+n=5=6",
        ],
    ),
    "x>5": (
        [
            "5<x",
            r"x \gt 5",
            r"(5,+\infty)",
            r"]5,\infty[",
            r"x \in (5,\infty)",
            "2x>10",
            r"\{x \mid x>5\}",
            r"\{x\in\mathbb{R} : x>5\}",
        ],
        [r"x\geq5", "x>-5", "x=5", "5", r"[5,\infty)"],
    ),
    "-3<x<3": (
        ["|x|<3", "(-3,3)", r"x>-3 \text{ and } x<3", r"-3<x \text{ and } x<3"],
        [r"|x|\le3", r"-3\le x<3", "x<3", "|x|>3"],
    ),
    "y>2x+1": (
        ["2x+1<y", "y-2x>1", "2y > 4x+2"],
        ["y<2x+1", r"y\ge 2x+1"],
    ),
    "(0,1)": (
        ["0<x<1", r"x\in(0,1)", r"\left(0,1\right)", "]0,1[", "(0;1)"],
        ["[0,1]", "(0,1]", "[0,1)", r"0\le x\le 1", r"\{0,1\}"],
    ),
    "[0,2]": (
        [r"[0,1]\cup[1,2]", r"0 \leq x \leq 2", r"\{x : 0\le x\le 2\}"],
        ["(0,2)", r"[0,1]\cup(1,2)", r"\{0,2\}", "[2,0]"],
    ),
    r"(-\infty,-1)\cup(1,\infty)": (
        [
            r"(1,\infty)\cup(-\infty,-1)",
            "|x|>1",
            r"x>1 \text{ or } x<-1",
            r"\mathbb{R}\setminus[-1,1]",
            "x<-1, x>1",
            "x < -1 or x > 1",
        ],
        [r"(-\infty,1)\cup(1,\infty)", "-1<x<1", r"(-\infty,-1]\cup[1,\infty)"],
    ),
    r"(-\infty,3]": (
        [r"]-\infty,3]", r"x \leqslant 3", "(-∞, 3]"],
        [r"(-\infty,3)", r"[3,\infty)"],
    ),
    "[a,b]": (
        ["[a, b]"],
        ["(a,b)", "[b,a]"],
    ),
    r"[-\sqrt{2},\sqrt{2}]": (
        [r"-\sqrt2\le x\le\sqrt2"],
        ["[-2,2]", "[-1.414,1.414]"],
    ),
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}": (
        [
            r"\begin{bmatrix}1&2\\3&4\end{bmatrix}",
            r"\left[\begin{matrix}1&2\\3&4\end{matrix}\right]",
            "[[1,2],[3,4]]",
            r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \\ \end{pmatrix}",
            r"\begin{pmatrix}1&3\\2&4\end{pmatrix}^T",
            r"A = \begin{pmatrix}1&2\\3&4\end{pmatrix}",
        ],
        [
            r"\begin{pmatrix}1&3\\2&4\end{pmatrix}",
            r"\begin{pmatrix}1&2&3\\3&4&5\end{pmatrix}",
            r"\begin{vmatrix}1&2\\3&4\end{vmatrix}",
            "-2",
            "(1,2,3,4)",
        ],
    ),
    r"\begin{pmatrix}1\\2\\3\end{pmatrix}": (
        [
            r"\begin{bmatrix}1\\2\\3\end{bmatrix}",
            "(1,2,3)",
            "(1,2,3)^T",
            r"\langle 1,2,3\rangle",
            r"\begin{pmatrix}1&2&3\end{pmatrix}^T",
        ],
        [r"\begin{pmatrix}1&2&3\end{pmatrix}", "(3,2,1)", r"\{1,2,3\}"],
    ),
    "42": (
        ["42.0", "042", "+42", "42.", r"\text{42}", r"\mathbf{42}", r"4.2\times10^1", "4.2e1", r"42\,"],
        ["4.2", "-42", "24", "420", "4 2"],
    ),
    "1000000": (
        [
            "1 000 000",
            "1e6",
            r"1\times 10^6",
            "10^{6}",
            "1,000,000.0",
            "1000000",
            r"1 \text{ million}",
            r"1{\,}000{\,}000",
        ],
        ["100000", "1,000,00"],
    ),
    r"1.5\times 10^{3}": (
        ["1500", "1.5e3", r"1.5 \cdot 10^3", "1,500"],
        ["150", "1.5"],
    ),
    "0.5": (
        [".5", "1/2", "0,5", "0{,}5", r"50\%", r"\frac12", r"5\times10^{-1}"],
        ["0.05", "5", "0.50001"],
    ),
    "25_8": (
        ["25_{8}", "(25)_8", "21", "21_{10}"],
        ["25", "25_{9}", "52_8"],
    ),
    r"2\frac{3}{4}": (
        ["2 3/4", "2.75", r"\frac{11}{4}", "2¾", r"2 \frac34"],
        [r"\frac{6}{4}", "2.34"],
    ),
    r"\frac{1}{3}": (
        [r"0.\overline{3}", r"0.\bar{3}", "1/3", r"\frac{2}{6}"],
        ["0.333", "0.3333333333333333", "0.3", r"33\%"],
    ),
    "0.0000001": (
        ["10^{-7}", r"1\times10^{-7}", "1e-07"],
        ["0.0000002", "0"],
    ),
    "3.14": (
        ["3.140"],
        [r"\pi", "3.1", "22/7"],
    ),
    "0": (
        ["0.0", "-0", r"\frac{0}{5}", r"\sin 0", "x-x"],
        ["", r"\text{none}", r"\emptyset", r"\frac{0}{0}", "0.0000000000001", "10^{-300}"],
    ),
    "2^{100}": (
        ["1267650600228229401496703205376", "4^{50}"],
        ["1267650600228229401496703205375", "1.2676506e30"],
    ),
    r"\mathbb{R}": (
        [r"(-\infty,\infty)", r"\R", "ℝ", r"\text{all real numbers}", r"x\in\mathbb{R}", r"\text{All real numbers}"],
        [r"\mathbb{Z}", r"\mathbb{C}", r"(0,\infty)", r"\mathbb{R}\setminus\{0\}"],
    ),
    r"\mathbb{R}\setminus\{0\}": (
        [
            r"\mathbb{R}-\{0\}",
            r"x\ne0",
            r"x \neq 0",
            r"x\in\mathbb{R}, x\neq 0",
            r"\mathbb{R} \backslash \{0\}",
            r"\mathbb{R}^*",
        ],
        [r"\mathbb{R}", r"\mathbb{R}\setminus\{1\}"],
    ),
    r"25\%": (
        ["0.25", "25 percent", r"25\text{ percent}", r"25 \%", "25%"],
        ["25", "0.025", r"250\%", "2.5"],
    ),
    r"1\%": (
        ["0.01"],
        ["1", "0.1"],
    ),
    r"2\sqrt{3}": (
        [
            r"\sqrt{12}",
            "sqrt(12)",
            "2sqrt3",
            "2√3",
            "√12",
            r"\frac{6}{\sqrt{3}}",
            r"\sqrt{3}\cdot2",
            r"2 \sqrt 3",
            r"\sqrt{4\cdot3}",
            "12^{0.5}",
            r"2\sqrt{\,3}",
        ],
        [r"3\sqrt{2}", r"\sqrt{6}", "3.46", "3.4641016151377544", r"-2\sqrt3", r"\sqrt{23}"],
    ),
    r"\sqrt[3]{4}": (
        ["4^{1/3}", "2^{2/3}", r"4^{\frac{1}{3}}", "∛4"],
        [r"\sqrt{4}", r"\sqrt[4]{3}", "1.587"],
    ),
    "-2": (
        [r"\sqrt[3]{-8}", "(-8)^{1/3}", r"-\sqrt{4}"],
        [r"\sqrt{4}", "2"],
    ),
    r"\frac{1}{\sqrt{2}}": (
        [r"\frac{\sqrt2}{2}", "2^{-0.5}", r"\sqrt{\frac12}", r"\sqrt{0.5}"],
        [r"\sqrt2", "0.707"],
    ),
    "3:4": (
        ["6:8", "3 : 4", r"3 \text{ to } 4", "3 to 4", r"\frac{3}{4}", "3∶4"],
        ["4:3", "3:5", "3:4:5", "34"],
    ),
    "1:2:3": (
        ["2:4:6"],
        ["1:2", "3:2:1"],
    ),
    r"\{1,2,3\}": (
        [
            "3,2,1",
            r"\{3,1,2\}",
            "1, 2, 3",
            r"1,2 \text{ and } 3",
            "1, 2, and 3",
            r"\lbrace 1,2,3\rbrace",
            r"\{1,1,2,3\}",
            r"x\in\{1,2,3\}",
            "x=1,2,3",
            r"x = 1 \text{ or } x=2 \text{ or } x=3",
            "1 or 2 or 3",
        ],
        ["(1,2,3)", "[1,2,3]", r"\{1,2,3,4\}", "6", "123", "1,2"],
    ),
    r"\{5\}": (
        ["5", "x=5", r"\{5\}"],
        [r"\{5,6\}", "6"],
    ),
    "1, 2": (
        [
            r"x=1 \text{ or } x=2",
            "x_1=2,x_2=1",
            r"\{1,2\}",
            r"2 \text{ and } 1",
            r"1 \text{ or } 2",
            "x=1, x=2",
            r"x \in \{1,2\}",
            "1;2",
            r"x=1 \\ x=2",
        ],
        ["(1,2)", "1", "1,2,3", "1,1", "12", "1.2", "x=2, y=1"],
    ),
    r"\frac{-1\pm\sqrt{5}}{2}": (
        [r"\frac{-1+\sqrt5}{2},\frac{-1-\sqrt5}{2}", r"x = \frac{-1 \pm \sqrt{5}}{2}"],
        [r"\frac{-1+\sqrt5}{2}", r"\frac{1\pm\sqrt5}{2}"],
    ),
    r"\pm 2": (
        ["2, -2", r"\{-2,2\}", r"x=\pm 2", r"\pm2", r"2 \text{ or } -2"],
        ["2", "-2", r"\pm 3"],
    ),
    r"\{1,234\}": (
        [r"\{234,1\}", "1, 234"],
        ["1,234", "1234"],
    ),
    r"\text{Yes}": (
        ["Yes", "yes.", r"\textbf{Yes}", "YES"],
        ["No", r"\text{not yes}", "yes or no", "yes and no"],
    ),
    r"\text{Monday}": (
        ["monday", r"\mathrm{Monday}"],
        ["Tuesday", "Monday or Tuesday"],
    ),
    "HTH": (
        [r"\text{HTH}", "H T H", "H, T, H"],
        ["HHT", "THH", "H^2T"],
    ),
    r"\text{the ellipse}": (
        ["ellipse", "an ellipse"],
        ["circle"],
    ),
    "10:30": (
        ["10{:}30", "10 : 30", r"10:30\text{ a.m.}"],
        ["1:3", "20:60", "10:31", "21:60", "10.5"],
    ),
    r"3:30\text{ p.m.}": (
        ["3:30 PM", r"3:30\text{ pm}", r"3{:}30\text{ p.m.}"],
        [r"3:30\text{ a.m.}", "4:30 p.m."],
    ),
    "(1,2)": (
        [
            "(1, 2)",
            r"\left(1,2\right)",
            "(x,y)=(1,2)",
            "x=1, y=2",
            r"x=1\text{ and }y=2",
            "y=2,x=1",
            r"\langle 1,2\rangle",
            "1,2",
            "(1.0,2)",
            r"\left( \frac{2}{2}, 2 \right)",
            "P(1,2)",
            "(1; 2)",
            r"\begin{pmatrix}1\\2\end{pmatrix}",
        ],
        [
            "(2,1)",
            r"\{1,2\}",
            "[1,2]",
            "(1,2,3)",
            "2,1",
            "12",
            "x=2,y=1",
            "(1,2),(1,2)",
            "3",
            r"1 \text{ or } 2",
            r"x=1 \text{ or } y=2",
        ],
    ),
    "(1,2),(3,4)": (
        ["(3,4),(1,2)", r"(1,2) \text{ and } (3,4)", r"\{(3,4),(1,2)\}"],
        ["(1,3),(2,4)", "(2,1),(3,4)", "(1,2),(3,4),(5,6)"],
    ),
    r"(\frac{1}{2},\sqrt{3})": (
        [r"(0.5,\sqrt3)", "(½, 3^{1/2})"],
        ["(0.5,1.73)"],
    ),
    "x=1, y=2": (
        ["(1,2)", "y=2, x=1", "(x,y)=(1,2)"],
        ["x=2, y=1", "(2,1)"],
    ),
    r"5\text{ cm}": (
        [
            "5",
            "5cm",
            "5 cm",
            r"5\,\text{cm}",
            r"5\mathrm{~cm}",
            r"0.05\text{ m}",
            "50 mm",
            r"5\text{ centimeters}",
            r"x = 5 \text{ cm}",
            r"\text{5 cm}",
        ],
        [r"5\text{ kg}", "5 m", r"5\text{ cm}^2", "50", "5 inches"],
    ),
    r"12\text{ cm}^2": (
        [r"12\text{ cm}^{2}", "12 cm²", r"12\text{ square centimeters}", r"12\text{ sq cm}", r"12\,\mathrm{cm}^2"],
        [r"12\text{ cm}", r"12\text{ m}^2"],
    ),
    r"60\text{ km/h}": (
        [r"60\text{ kilometers per hour}", "60 km/h", r"1\text{ km/min}", "60"],
        [r"60\text{ m/s}", r"60\text{ km}"],
    ),
    "12": (
        [
            r"12\text{ apples}",
            "12 apples",
            r"12\text{ cm}",
            r"12^\circ",
            r"12 \text{ units}",
            r"12\text{ km/h}",
            r"12\text{ students}",
            "12 cm",
        ],
        ["12x", "12m", r"12\text{ or }13", r"12 \text{ or 13}", r"12 \text{ hundred}", r"12\%", "12 thousand"],
    ),
    r"20^\circ\text{C}": (
        ["20°C", "20", r"20^\circ"],
        ["20°F"],
    ),
    r"\text{(A)}": (
        ["A", "(A)"],
        ["B"],
    ),
    r"\{(1,2)\}": (
        ["(1,2)", r"\{(1,2)\}"],
        ["(2,1)", r"\{1,2\}"],
    ),
    "[0,1]": (
        [],
        ["0,1", "(0,1)"],
    ),
    r"\text{May 5, 2020}": (
        ["May 5, 2020"],
        ["May 52020", "May 6, 2020"],
    ),
    r"\text{1.5 or so}": (
        [],
        ["15 or so"],
    ),
    "C+x": (
        ["x+c", "x+K"],
        ["x", "x+2c"],
    ),
    "2C": (
        [],
        ["2c"],
    ),
    "AB": (
        [r"\text{AB}"],
        ["-AB", "A-B", "BA", "AB'"],
    ),
    "3m": (
        ["3 m", r"m\cdot3", r"3\cdot m"],
        ["3", "3n", r"3\text{ kg}"],
    ),
    "4t": (
        [r"t\cdot 4"],
        ["4", "4s"],
    ),
    r"60^\circ": (
        [
            "60",
            "60°",
            r"60^{\circ}",
            r"60\text{ degrees}",
            "60 degrees",
            r"\frac{\pi}{3}",
            r"\frac{\pi}{3}\text{ radians}",
            r"\angle A = 60^\circ",
        ],
        [r"60\pi", r"\frac{\pi}{6}", "1.047", r"30^\circ", r"60\text{ radians}"],
    ),
    r"\frac{\pi}{3}": (
        [r"60^\circ", r"\pi/3", r"\frac{\pi}{3}\text{ rad}"],
        ["60", r"30^\circ", "1.0472"],
    ),
    r"11\text{ inches}": (
        ["11''", '11"', r"11^{\prime\prime}"],
        ["11'", "10''", r"11^\circ", r"11\text{ feet}"],
    ),
    r"6\text{ ft}": (
        ["6'"],
        ["6''"],
    ),
    r"5\text{ feet }8\text{ inches}": (
        ["5'8''", r"68\text{ inches}"],
        ["8'5''"],
    ),
    r"\$3\text{ million}": (
        ["3000000", r"3\text{ million dollars}", r"\$3{,}000{,}000"],
        ["3", r"\$3", r"\$3\text{ billion}"],
    ),
    r"3\text{ dozen eggs}": (
        ["36", r"36\text{ eggs}"],
        ["3", r"3\text{ eggs}"],
    ),
    r"\$12.50": (
        [r"12\text{ dollars and }50\text{ cents}", r"US\$12.50"],
        [r"12\text{ dollars and }5\text{ cents}", r"12\text{ dollars}", r"12.50\text{ cents}"],
    ),
    "96": (
        [r"\text{Total: 96}", r"\text{Area: } 96", r"\text{The total is } 96", r"\text{There are 96 ways}"],
        [
            r"\text{Total: 69}",
            r"\text{Not: } 96",
            r"\text{A wrong answer is } 96",
            r"\text{Half of it is } 96",
            r"\text{Total: } 96 \text{ or } 97",
            r"\text{Total: 96\%}",
            r"\text{There are 96 or 97}",
            r"\text{None: 96}",
        ],
    ),
    r"\$240": (
        [r"\text{Total: \$240}", r"\text{Total cost: } \$240"],
        [r"\text{Total: €240}", r"\text{Total: \$24}"],
    ),
    r"\frac{1}{6}": (
        ["1 in 6", r"1 \text{ in } 6"],
        [r"6 \text{ in } 1", r"1 \text{ in } 7", r"1 \text{ in } 6 \text{ or } 7"],
    ),
    "x<7": (
        [
            r"\text{must be less than } 7",
            r"\text{x must be less than 7}",
            r"\text{less than } 7",
            "<7",
            "2x<14",
            "x-7<0",
        ],
        [
            r"\text{must not be less than } 7",
            r"\text{must be at most } 7",
            r"\text{must be more than } 7",
            "-x<-7",
            "2x>14",
            "x<x+7",
        ],
    ),
    r"-1\le x\le 5": (
        [r"|x-2|\le 3", r"-2\le 2x\le 10"],
        ["|x-2|<3", r"|x+2|\le 3", r"x\le 5"],
    ),
    r"\mathbb{R}\setminus\{1,2\}": (
        [r"x\ne 1,2", r"x \neq 1 \text{ and } 2"],
        [r"x\ne 1", r"x\ne 1,3", r"x\ne 1 \text{ or } 2"],
    ),
    r"\frac{x+1}{x-1}": (
        [r"\frac{x + 1}{x - 1}, \quad x \neq 1"],
        [r"\frac{x+1}{x-1}, x=1", r"\frac{x-1}{x+1}, x\ne 1", r"\frac{x+1}{x-1}, 1"],
    ),
    r"\frac{3\pm\sqrt{17}}{4}": (
        [r"x_{1,2}=\frac{3\pm\sqrt{17}}{4}"],
        [r"x_{1,2}=\frac{3+\sqrt{17}}{4}"],
    ),
    "(7,1)": (
        [
            r"x=7 \\ y=1",
            r"x=7\\y=1",
            r"x=7, \\ y=1",
            r"\begin{cases} x=7 \\ y=1 \end{cases}",
            r"\begin{aligned} x&=7\\ y&=1\end{aligned}",
            r"\left\{\begin{array}{l} x=7 \\ y=1 \end{array}\right.",
            r"\text{The vertex is } (7,1)",
        ],
        [
            r"x=1 \\ y=7",
            r"x=7 \\ x=1",
            "x=7, x=1",
            r"x=7 \\ y=1 \\ z=0",
            r"\begin{cases} x=1 \\ y=7 \end{cases}",
            r"\text{Vertex: } (1,7)",
        ],
    ),
    "(0,3),(3,0)": (
        [r"x=0,y=3\text{ or }x=3,y=0"],
        [r"x=0,y=0\text{ or }x=3,y=3", r"x=0,y=3\text{ or }x=0,y=3", "x=3,y=0"],
    ),
    "2:5": (
        ["4:10"],
        ["4:11", r"2:05\text{ PM}", "5:2"],
    ),
    "9:16": (
        [r"\frac{9}{16}"],
        ["7:12", "3:4", r"\frac{16}{9}", "18:33"],
    ),
    "2:15": (
        [],
        ["4:30", r"\frac{2}{15}", "2.25"],
    ),
    "x^2=2x": (
        [],
        [r"x=\frac{2x}{x}", "x=2", r"\frac{x^2}{x}=\frac{2x}{x}"],
    ),
    "xy=6": (
        [r"y=\frac{6}{x}", r"x=\frac{6}{y}"],
        ["x^2y=6x", r"\frac{y}{x}=6", r"y=\frac{x}{6}", "6", r"6\text{ feet}"],
    ),
    "e": (
        [r"\lim_{n\to\infty}\left(1+\frac1n\right)^n"],
        [r"\lim_{n\to\infty}\left(1+\frac2n\right)^n", r"\lim_{n\to 0}\left(1+\frac1n\right)^n"],
    ),
    r"\frac{1}{2}e^{2x}+C": (
        [r"\frac12 e^{2x} + C_1"],
        [r"\frac12 e^{2x}+C_1x", r"\frac12 e^{2x}"],
    ),
    r"\text{parallel}": (
        [r"\text{The lines are parallel}"],
        [r"\text{The lines are not parallel}", r"\text{perpendicular}"],
    ),
    r"\text{converges}": (
        [r"\text{convergent}", r"\text{The series converges}"],
        [r"\text{divergent}", r"\text{The series is not convergent}", r"\text{does not converge}"],
    ),
    r"60\%": (
        [r"60\text{\%}"],
        ["60"],
    ),
    "4": (
        [r"\max\{1,4\}"],
        [r"\max\{4,5\}"],
    ),
    r"\{3,7\}": (
        [r"3 \& 7"],
        [r"3 \& 8"],
    ),
    "(2,-3)": (
        [],
        [r"[1,3]\cap[5,7]", "5=x=6", r"\emptyset"],
    ),
    "1<x<4": (
        ["|2x-5|<3", r"x>1 \text{ and } x<4"],
        ["(1,4),(3,2)", "|2x-5|>3", r"x>1 \text{ and } y<4", "x>1, y<4"],
    ),
    r"45\text{ mph}": (
        [],
        [r"45^\circ", r"45\text{ radians}", r"45\text{ km/h}"],
    ),
    "x+y=5": (
        [],
        ["5", "a+b=5"],
    ),
    "(1,2,3)": (
        [r"x=1 \\ y=2 \\ z=3"],
        [r"\sum_{k=1}^{9}k", r"\prod_{k=1}^{5} k"],
    ),
    "|z-1|=2": (
        ["|1-z|=2"],
        [r"z=3 \text{ or } z=-1", "x=3,y=-1", "z=3"],
    ),
    r"x<-2\text{ or }x>2": (
        ["|x|>2"],
        [r"x<-2 \text{ or } y>2", "|x|<2"],
    ),
    r"x>1 \text{ or } y<2": (
        [],
        [r"y>1 \text{ or } x<2", "x>1"],
    ),
}
"""Reference: (right answers, wrong answers)."""


def judge(answer: str, gold: str, **params: Any) -> Score:
    problem = Problem("?", gold, "p")
    return load_reward("math_answer", params).score_group([Completion(f"<answer>{answer}</answer>")], problem)[0]


@pytest.mark.parametrize("gold", CASES)
def test_right_and_wrong(gold: str) -> None:
    right, wrong = CASES[gold]
    assert [answer for answer in [gold, *right] if judge(answer, gold).value != 1.0] == []
    assert [answer for answer in wrong if judge(answer, gold).value != 0.0] == []


@pytest.mark.parametrize(
    ("answer", "gold", "params", "value"),
    [
        ("25", r"25\%", {"percent": True}, 1.0),
        ("25", "0.25", {"percent": True}, 1.0),
        ("26", r"25\%", {"percent": True}, 0.0),
        ("5", r"5\text{ cm}", {"units": "required"}, 0.0),
        (r"50\text{ mm}", r"5\text{ cm}", {"units": "required"}, 1.0),
        ("DBA", "ABD", {"multi_select": True}, 1.0),
        ("AB", "ABD", {"multi_select": True}, 0.0),
        ("DBA", "ABD", {}, 0.0),
        ("ba", "ab", {"algebra": True}, 1.0),
        ("ba", "ab", {}, 0.0),
    ],
)
def test_choices_of_the_data_set(answer: str, gold: str, params: dict[str, Any], value: float) -> None:
    assert judge(answer, gold, **params).value == value


@pytest.mark.parametrize(
    ("require", "text", "value"),
    [
        ("answer_tag", "<answer>5</answer>", 1.0),
        ("answer_tag", r"\boxed{5}", 0.0),
        ("boxed", r"\boxed{5}", 1.0),
        ("boxed", "<answer>5</answer>", 0.0),
        ("either", r"\boxed{5}", 1.0),
        ("either", "The answer is 5.", 0.0),
        ("any", "The answer is 5.", 1.0),
        ("any", r"<think>\boxed{5}</think>", 0.0),
    ],
)
def test_where_the_answer_must_stand(require: str, text: str, value: float) -> None:
    reward = load_reward("math_answer", {"require": require})
    assert reward.score_group([Completion(text)], Problem("?", "5", "p"))[0].value == value


@pytest.mark.parametrize("gold", ["", " ", r"\unknowncommand{5}", "((("])
def test_a_reference_that_cannot_be_read_gives_no_verdict(gold: str) -> None:
    assert judge("5", gold).value is None


HOSTILE = [
    r"\( " * 30_000,
    "\\boxed{" * 20_000,
    "(" * 3_000 + "5" + ")" * 2_999,
    "9^{9^{9^{9}}}",
    "9!!!!!!!!!!",
    r"\sum_{a=1}^{1000}\sum_{b=1}^{1000}\sum_{c=1}^{1000} a",
    r"\binom{10^{9}}{10^{8}}",
    "1+" * 1_900 + "1",
    "-" * 3_000 + "5",
    "1/" * 1_500 + "0",
    "1" * 3_900,
    "0." + "0" * 3_900 + "1",
    "1e999999999",
    r"\sin(\exp(\exp(\exp(100))))",
    r"\sqrt{" * 55 + "5" + "}" * 55,
    ", ".join(map(str, range(900))),
    "\x00\ud800\u202e5",
    "5" + " " * 5_000 + "+1",
    "x_" * 1_000,
    "|" * 1_000,
]


def test_hostile_answers_are_wrong_and_quick() -> None:
    problem, texts = Problem("?", r"\frac{1+\sqrt{5}}{2}", "p"), [f"<answer>{answer}</answer>" for answer in HOSTILE]
    with Scorer({"math_answer": 1.0}, deadline=20) as scorer:
        judged = scorer.score([Completion(text) for text in texts], [problem] * len(texts), 1)
    assert [each.total for each in judged] == [0.0] * len(texts)


def test_the_verdict_is_the_same_everywhere() -> None:
    answers = [("2sqrt3", r"\sqrt{12}", 1.0), (r"\int_0^1 2x\,dx", "1", 1.0), ("9^{9^{9}}", "5", 0.0)]

    def verdicts() -> list[float | None]:
        return [judge(answer, gold).value for answer, gold, _ in answers]

    async def later() -> list[float | None]:
        return verdicts()

    found: list[list[float | None]] = [verdicts(), asyncio.run(later())]
    thread = threading.Thread(target=lambda: found.append(verdicts()))
    thread.start()
    thread.join()
    assert found == [[expected for *_, expected in answers]] * 3


@pytest.mark.parametrize("gold", ["5", r"2\sqrt{3}", "x^2"])
@pytest.mark.parametrize("answer", [r"\int_0^9 x^{x^{x^x}}dx", r"\int_0^9 x^x^x^x dx", r"\lim_{x\to 9} 9^{99999}x"])
def test_math_verify_is_not_asked_what_no_processor_computes(answer: str, gold: str) -> None:
    (score,) = load_reward("math_answer", {}).score_group([Completion(f"\\boxed{{{answer}}}")], Problem("?", gold, "p"))
    assert score == Score(0.0, "too large to compute")
