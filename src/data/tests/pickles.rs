//! Pickles as Python writes them, and pickles that are programs.

use crate::data::pickle::Pickle;

// What Python's pickle.dumps makes of
//   {b'batch_label': b'training batch 1 of 5', b'labels': [6, 300, -1],
//    b'data': numpy.arange(6, dtype=numpy.uint8).reshape(2, 3),
//    b'filenames': [b'a.png', b'a.png']}
const PROTOCOL_0: &[u8] = b"\
(dp0\nc_codecs\nencode\np1\n(Vbatch_label\np2\nVlatin1\np3\ntp4\nRp5\ng1\n(Vtraining b\
atch 1 of 5\np6\ng3\ntp7\nRp8\nsg1\n(Vlabels\np9\ng3\ntp10\nRp11\n(lp12\nI6\naI300\naI\
-1\nasg1\n(Vdata\np13\ng3\ntp14\nRp15\ncnumpy._core.multiarray\n_reconstruct\np16\n(cn\
umpy\nndarray\np17\n(I0\ntp18\ng1\n(Vb\np19\ng3\ntp20\nRp21\ntp22\nRp23\n(I1\n(I2\nI3\
\ntp24\ncnumpy\ndtype\np25\n(Vu1\np26\nI00\nI01\ntp27\nRp28\n(I3\nV|\np29\nNNNI-1\nI-1\
\nI0\ntp30\nbI00\ng1\n(V\\u0000\x01\x02\x03\x04\x05\np31\ng3\ntp32\nRp33\ntp34\nbsg1\n\
(Vfilenames\np35\ng3\ntp36\nRp37\n(lp38\ng1\n(Va.png\np39\ng3\ntp40\nRp41\nag41\nas.";
const PROTOCOL_1: &[u8] = b"\
}q\x00(c_codecs\nencode\nq\x01(X\x0b\x00\x00\x00batch_labelq\x02X\x06\x00\x00\x00latin\
1q\x03tq\x04Rq\x05h\x01(X\x15\x00\x00\x00training batch 1 of 5q\x06h\x03tq\x07Rq\x08h\
\x01(X\x06\x00\x00\x00labelsq\x09h\x03tq\nRq\x0b]q\x0c(K\x06M,\x01J\xff\xff\xff\xffeh\
\x01(X\x04\x00\x00\x00dataq\x0dh\x03tq\x0eRq\x0fcnumpy._core.multiarray\n_reconstruct\
\nq\x10(cnumpy\nndarray\nq\x11(K\x00tq\x12h\x01(X\x01\x00\x00\x00bq\x13h\x03tq\x14Rq\
\x15tq\x16Rq\x17(K\x01(K\x02K\x03tq\x18cnumpy\ndtype\nq\x19(X\x02\x00\x00\x00u1q\x1aI0\
0\nI01\ntq\x1bRq\x1c(K\x03X\x01\x00\x00\x00|q\x1dNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff\
K\x00tq\x1ebI00\nh\x01(X\x06\x00\x00\x00\x00\x01\x02\x03\x04\x05q\x1fh\x03tq Rq!tq\"bh\
\x01(X\x09\x00\x00\x00filenamesq#h\x03tq$Rq%]q&(h\x01(X\x05\x00\x00\x00a.pngq'h\x03tq(\
Rq)h)eu.";
const PROTOCOL_2: &[u8] = b"\
\x80\x02}q\x00(c_codecs\nencode\nq\x01X\x0b\x00\x00\x00batch_labelq\x02X\x06\x00\x00\
\x00latin1q\x03\x86q\x04Rq\x05h\x01X\x15\x00\x00\x00training batch 1 of 5q\x06h\x03\
\x86q\x07Rq\x08h\x01X\x06\x00\x00\x00labelsq\x09h\x03\x86q\nRq\x0b]q\x0c(K\x06M,\x01J\
\xff\xff\xff\xffeh\x01X\x04\x00\x00\x00dataq\x0dh\x03\x86q\x0eRq\x0fcnumpy._core.multi\
array\n_reconstruct\nq\x10cnumpy\nndarray\nq\x11K\x00\x85q\x12h\x01X\x01\x00\x00\x00bq\
\x13h\x03\x86q\x14Rq\x15\x87q\x16Rq\x17(K\x01K\x02K\x03\x86q\x18cnumpy\ndtype\nq\x19X\
\x02\x00\x00\x00u1q\x1a\x89\x88\x87q\x1bRq\x1c(K\x03X\x01\x00\x00\x00|q\x1dNNNJ\xff\
\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x1eb\x89h\x01X\x06\x00\x00\x00\x00\x01\x02\x03\
\x04\x05q\x1fh\x03\x86q Rq!tq\"bh\x01X\x09\x00\x00\x00filenamesq#h\x03\x86q$Rq%]q&(h\
\x01X\x05\x00\x00\x00a.pngq'h\x03\x86q(Rq)h)eu.";
const PROTOCOL_3: &[u8] = b"\
\x80\x03}q\x00(C\x0bbatch_labelq\x01C\x15training batch 1 of 5q\x02C\x06labelsq\x03]q\
\x04(K\x06M,\x01J\xff\xff\xff\xffeC\x04dataq\x05cnumpy._core.multiarray\n_reconstruct\
\nq\x06cnumpy\nndarray\nq\x07K\x00\x85q\x08C\x01bq\x09\x87q\nRq\x0b(K\x01K\x02K\x03\
\x86q\x0ccnumpy\ndtype\nq\x0dX\x02\x00\x00\x00u1q\x0e\x89\x88\x87q\x0fRq\x10(K\x03X\
\x01\x00\x00\x00|q\x11NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x12b\x89C\x06\x00\
\x01\x02\x03\x04\x05q\x13tq\x14bC\x09filenamesq\x15]q\x16(C\x05a.pngq\x17h\x17eu.";
const PROTOCOL_4: &[u8] = b"\
\x80\x04\x95\xf3\x00\x00\x00\x00\x00\x00\x00}\x94(C\x0bbatch_label\x94C\x15training ba\
tch 1 of 5\x94C\x06labels\x94]\x94(K\x06M,\x01J\xff\xff\xff\xffeC\x04data\x94\x8c\x16n\
umpy._core.multiarray\x94\x8c\x0c_reconstruct\x94\x93\x94\x8c\x05numpy\x94\x8c\x07ndar\
ray\x94\x93\x94K\x00\x85\x94C\x01b\x94\x87\x94R\x94(K\x01K\x02K\x03\x86\x94h\x09\x8c\
\x05dtype\x94\x93\x94\x8c\x02u1\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01|\x94NNNJ\xff\
\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94b\x89C\x06\x00\x01\x02\x03\x04\x05\x94t\x94bC\
\x09filenames\x94]\x94(C\x05a.png\x94h\x1ceu.";
const PROTOCOL_5: &[u8] = b"\
\x80\x05\x95\xde\x00\x00\x00\x00\x00\x00\x00}\x94(C\x0bbatch_label\x94C\x15training ba\
tch 1 of 5\x94C\x06labels\x94]\x94(K\x06M,\x01J\xff\xff\xff\xffeC\x04data\x94\x8c\x13n\
umpy._core.numeric\x94\x8c\x0b_frombuffer\x94\x93\x94(\x96\x06\x00\x00\x00\x00\x00\x00\
\x00\x00\x01\x02\x03\x04\x05\x94\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94\x8c\x02u1\
\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01|\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00\
t\x94bK\x02K\x03\x86\x94\x8c\x01C\x94t\x94R\x94C\x09filenames\x94]\x94(C\x05a.png\x94h\
\x18eu.";

/// The same as Python 2 writes it in protocol 2, the form of the published files.
const PYTHON_2: &[u8] = b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06\
labelsq\x04]q\x05(K\x06M,\x01J\xff\xff\xff\xffeU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\n\
q\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\t(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\nU\x02u1K\
\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x06\x00\x00\x00\
\x00\x01\x02\x03\x04\x05tbU\tfilenamesq\x0c]q\r(U\x05a.pngq\x0eh\x0eeu.";

/// What must be readable.
pub(super) const ALL: [&[u8]; 6] =
    [PROTOCOL_0, PROTOCOL_1, PROTOCOL_2, PROTOCOL_3, PROTOCOL_4, PYTHON_2];

fn error(pickle: &[u8]) -> String {
    match Pickle::read(pickle) {
        Ok(_) => panic!("{} was read", pickle.escape_ascii()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_protocol_gives_the_same_data() {
    for (number, bytes) in ALL.into_iter().enumerate() {
        let pickle = Pickle::read(bytes).unwrap_or_else(|error| panic!("{number}: {error}"));
        assert_eq!(pickle.ints("labels").expect("a list"), [6, 300, -1], "{number}");
        assert_eq!(pickle.strings("filenames").expect("a list"), ["a.png", "a.png"], "{number}");
        let data = pickle.byte_array("data").expect("an array");
        let mut rows = Vec::new();
        data.append_to(&mut rows);
        assert_eq!((data.shape(), rows), ((2, 3), vec![0, 1, 2, 3, 4, 5]), "{number}");
    }
}

#[test]
fn an_array_stored_by_columns_is_read_by_rows() {
    let at = PYTHON_2.windows(2).position(|pair| pair == b"\x89T").expect("the flag is there");
    let mut pickle = PYTHON_2.to_vec();
    pickle[at] = 0x88;
    let mut rows = Vec::new();
    let pickle = Pickle::read(&pickle).expect("a good pickle");
    pickle.byte_array("data").expect("an array").append_to(&mut rows);
    assert_eq!(rows, [0, 2, 4, 1, 3, 5]);
}

#[test]
fn quoted_strings_and_long_numbers_of_protocol_0_and_2_are_read() {
    let pickle = b"(dS'a'\n(lS'x\\'\\\\\\n\\x41'\naS\"q\"\nasS'b'\n(lL7L\naI01\na\x8a\x01\xff\
                   a\x8a\x00aI-2\nas.";
    let pickle = Pickle::read(pickle).expect("a good pickle");
    assert_eq!(pickle.strings("a").expect("a list"), ["x'\\\nA", "q"]);
    assert_eq!(pickle.ints("b").expect("a list"), [7, 1, -1, 0, -2]);
    let text = Pickle::read(b"(dVk\n(lV\\u00e9\\u005c\xe9\nas.").expect("a good pickle");
    assert_eq!(text.strings("k").expect("a list"), ["é\\é"]);
}

#[test]
fn code_is_refused_and_named() {
    for (pickle, expected) in [
        (&b"cos\nsystem\n(S'echo hacked'\ntR."[..], "os.system"),
        (b"c__builtin__\neval\n(S'1'\ntR.", "__builtin__.eval"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02ls\x85R.", "posix.system"),
        (b"cnumpy\nload\n.", "numpy.load"),
        (PROTOCOL_5, "_frombuffer"),
        (b"c\x1b[2J\nsystem\n.", r"\u{1b}[2J.system"),
        (b"(S'ls'\nios\nsystem\n.", "opcode 0x69"),
        (b"(cos\nsystem\no.", "os.system"),
        (b"\x80\x02)\x81.", "opcode 0x81"),
        (b"Pid\n.", "opcode 0x50"),
        (b"\x82\x01.", "opcode 0x82"),
        (b"]]R.", "cannot be called"),
        (b"cnumpy\nndarray\n)R.", "arguments it does not take"),
        (b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.", "other than latin1"),
        (b"]]b.", "a state to something that has none"),
    ] {
        let message = error(pickle);
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
        assert!(message.contains("refused") || message.contains("byte"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message:?}");
    }
}

#[test]
fn a_pickle_cut_anywhere_is_an_error() {
    for pickle in [PROTOCOL_0, PROTOCOL_2, PROTOCOL_4, PYTHON_2] {
        for len in 0..pickle.len() {
            let message = error(&pickle[..len]);
            assert!(message.contains("cut off"), "{len}: {message}");
        }
    }
}

#[test]
fn lying_lengths_and_endless_programs_end_with_an_error_in_little_memory() {
    let long = [&b"T\xff\xff\xff\xff"[..], b"x."].concat();
    assert!(error(&long).contains("cut off"));
    let longer = [&b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff"[..], b"x."].concat();
    assert!(error(&longer).contains("cut off"));
    assert!(error(&vec![b'N'; 2_000_000]).contains("opcodes"));
    assert!(error(&vec![b'('; 2_000_000]).contains("opcodes"));

    // A text of 1000 bytes, encoded again and again.
    let mut bomb = b"c_codecs\nencode\nq\x00X\xe8\x03\x00\x00".to_vec();
    bomb.extend([b'a'; 1000]);
    bomb.extend(b"q\x01X\x06\x00\x00\x00latin1q\x02");
    (0..1000).for_each(|_| bomb.extend(b"h\x00h\x01h\x02\x86R"));
    bomb.push(b'.');
    assert!(error(&bomb).contains("grows beyond twice its size"));
}

#[test]
fn damaged_structures_are_errors() {
    for (pickle, expected) in [
        (&b"."[..], "takes more than there is"),
        (b"0.", "takes more than there is"),
        (b"t.", "takes more than there is"),
        (b"N(0.", "takes more than there is"),
        (b"a.", "takes more than there is"),
        // What lies below a mark is not theirs to take.
        (b"]N(a1.", "takes more than there is"),
        (b"}NN(s1.", "takes more than there is"),
        (b"\x86.", "takes more than there is"),
        (b"NNa.", "not a list"),
        (b"NNNs.", "not a dictionary"),
        (b"(Nd.", "key without a value"),
        (b"h\x05.", "refers to nothing"),
        (b"g\xff\n.", "not a number"),
        (b"Ix\n.", "not a number"),
        (b"Snope\n.", "without its quotes"),
        (b"S'\\q'\n.", "unknown escape"),
        (b"V\\u12\n.", "damaged escape"),
        (b"\x8a\x09123456789.", "more than 64 bits"),
        (b"]]\x93.", "something that is not text"),
    ] {
        let message = error(pickle);
        assert!(message.contains(expected), "{expected:?} is not in {message:?}");
    }
    // A list that holds itself, and a dictionary that is its own key, are no endless loops.
    let loops = Pickle::read(b"}q\x00h\x00h\x00s]q\x01h\x01a.").expect("it is data");
    assert!(loops.ints("labels").expect_err("not a dictionary").contains("not a dictionary"));
}

#[test]
fn entries_of_another_type_are_errors_that_name_the_entry() {
    let pickle = Pickle::read(PROTOCOL_3).expect("a good pickle");
    for problem in [
        pickle.ints("fine_labels").err(),
        pickle.ints("data").err(),
        pickle.ints("filenames").err(),
        pickle.strings("labels").err(),
        pickle.byte_array("labels").err(),
    ] {
        let problem = problem.expect("it is of another type");
        assert!(problem.contains('"'), "{problem}");
    }
    let shape = PYTHON_2.windows(4).position(|part| part == b"K\x02K\x03").expect("the shape");
    for (rows, columns) in [(3, 3), (0, 0), (255, 255)] {
        let mut pickle = PYTHON_2.to_vec();
        (pickle[shape + 1], pickle[shape + 3]) = (rows, columns);
        let pickle = Pickle::read(&pickle).expect("a good pickle");
        assert!(pickle.byte_array("data").is_err(), "{rows} x {columns} is not six bytes");
    }
}
