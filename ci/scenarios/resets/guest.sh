# card_works: the only card is up and reaches the network.
card_works() { net_up && net_ping 2; }
