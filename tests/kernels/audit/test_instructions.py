from fastnas_audit.instructions import KINDS, innermost_loops, instructions, kind_of, share_of_products

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


def test_only_the_innermost_loop_counts_and_the_jump_to_itself_is_none():
    (mix,) = innermost_loops(instructions(CODE))
    assert mix == dict(zip(KINDS, (2, 0, 1, 1, 1, 1), strict=True))
    assert share_of_products(mix) == 2 / 6


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
