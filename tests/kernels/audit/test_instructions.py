import pytest

from fastnas_audit.instructions import (
    HALF_RATE,
    instructions,
    kind_of,
    places,
    share_of_products,
    stretches,
)

CODE = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   S2R R0, SR_TID.X ;
        /*0020*/                   IADD3 R2, R0, 0x1, RZ ;
        /*0030*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0040*/                   FMNMX R4, RZ, R4, !PT ;
        /*0050*/                   FFMA R8, R4, R5, R8 ;
        /*0060*/                   FFMA R9, R4, R6, R9 ;
        /*0070*/                   ISETP.GE.AND P0, PT, R2, 0x5, PT ;
        /*0080*/              @!P0 BRA 0x30 ;
        /*0090*/                   IADD3 R0, R0, 0x1, RZ ;
        /*00a0*/               @P1 BRA 0x20 ;
        /*00b0*/                   STG.E.128 desc[UR4][R2.64], R8 ;
        /*00c0*/                   EXIT ;
        /*00d0*/                   BRA 0xd0;
"""


def test_reads_every_instruction_and_where_it_jumps():
    found = instructions(CODE)
    assert [i.name for i in found][:4] == ["LDC", "S2R", "IADD3", "LDG"]
    assert {i.address: i.target for i in found if i.target is not None} == {0x80: 0x30, 0xA0: 0x20, 0xD0: 0xD0}


SOURCE = """\
def kernel(n, m, kernel):
    for i in range(n):
        for j in tl.range(0, m, 2):
            if dilation == 3:
                x = 1
            else:
                x = 2
"""
LINES = """
	//## File "{0}", line 1
        /*0000*/  LDC
        /*0010*/  S2R
	//## File "{0}", line 2
        /*0020*/  IADD3
        /*0030*/  LDG
        /*0040*/  FMNMX
	//## File "{0}", line 5 inlined at "{0}", line 3
	//## File "{0}", line 3
        /*0050*/  FFMA
	//## File "{0}", line 7
        /*0060*/  FFMA
	//## File "{0}", line 3
        /*0070*/  ISETP
        /*0080*/  BRA
        /*0090*/  IADD3
	//## File "{0}", line 2
        /*00a0*/  BRA
"""


def test_instructions_are_told_apart_by_loops_and_by_what_is_there_for_one_filter_alone(tmp_path):
    file = tmp_path / "kernel.py"
    file.write_text(SOURCE)
    found = stretches(instructions(CODE), places(LINES.format(file)))
    inner, three = ("n", "0, m, 2"), "dilation == 3"
    assert {(s.nest, s.conditions): {k: v for k, v in s.mix.items() if v} for s in found} == {
        ((), ()): {"memory": 2, "integer and address": 1, "control": 2},
        (("n",), ()): {"integer and address": 2, "control": 1, HALF_RATE: 2},
        (inner, ()): {
            "memory": 1, "other floating point": 1, "integer and address": 1, "control": 1, HALF_RATE: 2,
        },
        (inner, ((three, True),)): {"multiply-add": 1},
        (inner, ((three, False),)): {"multiply-add": 1},
    }  # fmt: skip
    assert share_of_products({"multiply-add": 2, "memory": 6}) == 1 / 4


UNROLLED = """
        /*0000*/                   LDG.E R4, desc[UR4][R2.64] ;
        /*0010*/                   LDG.E R5, desc[UR4][R2.64] ;
        /*0020*/              @!P0 BRA 0x0 ;
        /*0030*/                   LDG.E R4, desc[UR4][R2.64] ;
        /*0040*/              @!P0 BRA 0x30 ;
"""
SAME_LINES = """
	//## File "{0}", line 3
        /*0000*/  LDG
        /*0010*/  LDG
	//## File "{0}", line 2
        /*0020*/  BRA
	//## File "{0}", line {1}
        /*0030*/  LDG
	//## File "{0}", line 2
        /*0040*/  BRA
"""


@pytest.mark.parametrize(("line", "nests"), [(3, {"n, unrolled=2", "n, rest=2"}), (5, {"n"})])
def test_a_loop_with_the_accesses_of_another_several_times_is_unrolled(tmp_path, line, nests):
    file = tmp_path / "kernel.py"
    file.write_text(SOURCE)
    found = stretches(instructions(UNROLLED), places(SAME_LINES.format(file, line)))
    assert {stretch.nest[0] for stretch in found} == nests


def test_a_loop_that_the_source_does_not_have_is_an_error():
    with pytest.raises(ValueError, match=r"^stretches: a jump backwards must stem from a `for` over a range"):
        stretches(instructions(CODE), {})


def test_every_instruction_has_its_kind():
    kinds = {
        "multiply-add": ("FFMA", "FFMA2", "DFMA", "HFMA2"),
        "matrix": ("HMMA", "HGMMA", "UTCHMMA"),
        "other floating point": ("FADD", "FSEL", "MUFU", "HADD2", "DSETP", "FSETP"),
        "integer and address": ("IMAD", "IADD3", "LOP3", "ISETP", "FLO", "PRMT", "UIADD3", "SEL", "SHFL"),
        "memory": ("LDG", "STS", "ULDC", "RED", "LDGSTS"),
        "control": ("BRA", "BAR", "EXIT", "BSSY"),
    }
    assert {name: kind_of(name) for names in kinds.values() for name in names} == {
        name: kind for kind, names in kinds.items() for name in names
    }
