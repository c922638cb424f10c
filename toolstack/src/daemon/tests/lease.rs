use pcidom_loan::{LeaseAsk, LeaseRefusal};

use super::bed::{Bed, G, device};
use crate::fake::Owner;

const REQUEST: &str = "/local/domain/1/data/pcidom/requests/0";

fn vectors(bed: &Bed) -> usize {
    bed.xen.of(G).pirqs.values().filter(|what| what.is_some()).count()
}

fn result(bed: &Bed, sequence: u32) -> Result<Vec<u16>, LeaseRefusal> {
    let answer = bed.answer().expect("no answer");
    assert_eq!(answer.sequence, sequence);
    answer.result
}

#[test]
fn the_start_of_an_nvme_driver_one_vector_then_many() {
    let mut bed = Bed::lent();
    bed.request(1, LeaseAsk::MapMsix(vec![0]));
    assert_eq!(result(&bed, 1), Ok(vec![55]));
    bed.request(2, LeaseAsk::Unmap);
    assert_eq!(result(&bed, 2), Ok(vec![]));
    assert_eq!(vectors(&bed), 0);
    bed.request(3, LeaseAsk::MapMsix(vec![0, 1, 2]));
    assert_eq!(result(&bed, 3), Ok(vec![55, 54, 53]));
    assert!(
        bed.xen.log.contains(&"xc_physdev_map_pirq_msi 2 0000:01:00.0 2 fe700000".into())
    );
    assert!(bed.get("/tool/pcidom/loans/0").unwrap().contains("[[0,55],[1,54],[2,53]]"));
}

#[test]
fn a_request_is_served_once() {
    let mut bed = Bed::lent();
    bed.request(1, LeaseAsk::MapMsix(vec![0]));
    bed.request(2, LeaseAsk::Unmap);
    let calls = bed.xen.log.len();
    bed.request(1, LeaseAsk::MapMsix(vec![0]));
    bed.request(2, LeaseAsk::MapMsix(vec![0]));
    bed.start();
    let again = |line: &&String| line.contains("map_pirq") && line.contains(" 2 ");
    let again = bed.xen.log[calls..].iter().filter(again).count();
    assert_eq!((vectors(&bed), again), (0, 0));
}

#[test]
fn a_request_of_an_earlier_loan_does_nothing_for_this_one() {
    let mut bed = Bed::lent();
    bed.request(1, LeaseAsk::MapMsix(vec![0]));
    let left_over = bed.get(REQUEST).unwrap();
    bed.detach("g1", 1, true);
    bed.done();
    bed.attach("g1", 1);
    bed.done();
    bed.set(REQUEST, &left_over);
    bed.settle();
    bed.start();
    assert_eq!((vectors(&bed), bed.answer()), (0, None));
}

#[test]
fn requests_beyond_the_devices_own_table_are_refused() {
    let mut bed = Bed::lent();
    bed.request(1, LeaseAsk::MapMsix(vec![64, 65]));
    assert_eq!(result(&bed, 1), Err(LeaseRefusal::NotAllowed));
    bed.request(2, LeaseAsk::MapMsi);
    assert_eq!(result(&bed, 2), Err(LeaseRefusal::NotAllowed));
    assert_eq!(vectors(&bed), 0);
    bed.request(3, LeaseAsk::MapMsix(vec![64]));
    assert_eq!(result(&bed, 3), Ok(vec![55]));
    bed.request(4, LeaseAsk::MapMsix(vec![1]));
    assert_eq!(result(&bed, 4), Err(LeaseRefusal::Busy));
    assert_eq!(vectors(&bed), 1);
}

#[test]
fn all_or_nothing_when_xen_runs_out() {
    let mut bed = Bed::lent();
    bed.xen.vectors = 4;
    bed.request(1, LeaseAsk::MapMsix((0..5).collect()));
    assert_eq!(result(&bed, 1), Err(LeaseRefusal::OutOfVectors));
    assert_eq!(vectors(&bed), 0);
    for call in 0..4 {
        bed.xen.fault = Some((call, 5));
        bed.request(2 + call, LeaseAsk::MapMsix((0..4).collect()));
        assert_eq!(result(&bed, 2 + call), Err(LeaseRefusal::Failed));
        assert_eq!(vectors(&bed), 0);
    }
}

#[test]
fn hostile_requests_do_nothing() {
    let mut bed = Bed::lent();
    let calls = bed.xen.log.len();
    for text in [
        "",
        "map",
        "gen=1 seq=1 map msix 0,0",
        "gen=1 seq=99999999999 map msix 0",
        "gen=2 seq=1 map msix 0",
        "gen=0 seq=1 map msix 0",
        "gen=1 seq=0 map msix 0",
        "gen=1 seq=1 map msix ../../../0",
        &"x".repeat(4000),
    ] {
        bed.set(REQUEST, text);
        bed.settle();
    }
    for path in
        ["requests/1", "requests/256", "requests/-1", "requests/0/0", "requests/../0"]
    {
        let path = format!("/local/domain/1/data/pcidom/{path}");
        bed.set(&path, "gen=1 seq=1 map msix 0");
        bed.settle();
    }
    assert_eq!((bed.xen.log.len(), bed.answer()), (calls, None));
}

#[test]
fn nothing_is_mapped_before_a_loan_is_lent_or_after() {
    let mut bed = Bed::new();
    bed.pcidom_serves = false;
    bed.attach("g1", 1);
    bed.request(1, LeaseAsk::MapMsix(vec![0]));
    assert_eq!(result(&bed, 1), Err(LeaseRefusal::NotAllowed));
    bed.pcidom_serves = true;
    bed.settle();
    bed.done();
    bed.pcidom_serves = false;
    bed.detach("g1", 1, true);
    bed.request(2, LeaseAsk::MapMsix(vec![0]));
    assert_eq!(result(&bed, 2), Err(LeaseRefusal::NotAllowed));
    assert_eq!(bed.xen.owners[&device(1)], Owner::Quarantine);
}

#[test]
fn an_attach_that_waits_does_not_hold_up_another_guests_leases() {
    let mut bed = Bed::lent();
    bed.pcidom_serves = false;
    bed.attach("g2", 2);
    bed.request(1, LeaseAsk::MapMsix(vec![0]));
    assert_eq!(result(&bed, 1), Ok(vec![55]));
}

#[test]
fn a_driver_that_is_asked_to_let_go_can_still_unmap() {
    let mut bed = Bed::lent();
    bed.request(1, LeaseAsk::MapMsix(vec![0]));
    bed.guests_answer = false;
    bed.detach("g1", 1, false);
    bed.request(2, LeaseAsk::Unmap);
    assert_eq!((result(&bed, 2), vectors(&bed)), (Ok(vec![]), 0));
}
